"""Pretrained networks at sizes that they were not trained for."""
