"""Samplers that compare several candidates for every sample."""
