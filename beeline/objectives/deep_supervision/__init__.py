"""Deep supervision: intermediate velocities, refined by accelerations, and early exits."""
