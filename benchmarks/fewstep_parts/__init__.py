"""The parts of the few-step benchmark: worlds, passes, students, results and the page."""
