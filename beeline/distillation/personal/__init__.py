"""Training of small changes that keeps, or takes away, what a flow knows."""
