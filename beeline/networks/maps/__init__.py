"""Networks of students: flow maps, heads for several steps, and equilibrium blocks."""
