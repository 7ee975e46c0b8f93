"""Values, errors, random numbers, files, and the protocols of all slots."""
