"""Low-rank changes of layers."""
