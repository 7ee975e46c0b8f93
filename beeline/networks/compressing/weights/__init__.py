"""Codes, scales and sensitivities of weights, beside the formats."""
