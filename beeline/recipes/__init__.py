"""Recipes: functions that return a complete run, to start from and to change setting by setting."""
