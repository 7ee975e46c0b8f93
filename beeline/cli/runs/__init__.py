"""The command ``beeline runs``: list, compare, open and delete runs."""
