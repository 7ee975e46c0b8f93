"""What an edit changed and what it kept, as numbers."""
