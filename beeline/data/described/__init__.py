"""Data with descriptions: texts, numbers and pictures as conditions."""
