"""HTML reports of runs and of the demo."""
