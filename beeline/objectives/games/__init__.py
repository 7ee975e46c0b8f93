"""Score games: a student against networks that follow its samples."""
