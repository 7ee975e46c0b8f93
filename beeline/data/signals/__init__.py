"""Arrays of numbers: signals and images of any channels."""
