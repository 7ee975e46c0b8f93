"""Bundles as a service: evaluations of several requests in one batch, a queue, and an HTTP interface."""
