"""Stored pairs of a teacher: shards on disk that any number of processes fill and a training reads."""
