"""Parts of the editing benchmark."""
