"""Objectives of flow maps, whose networks take two times."""
