"""Progress of a training: on the terminal, in a notebook, and as an HTML page."""
