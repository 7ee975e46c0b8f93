"""Controllers that follow the gradient of an energy."""
