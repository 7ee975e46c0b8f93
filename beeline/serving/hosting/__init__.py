"""Networks that are evaluated for several requests, models and devices."""
