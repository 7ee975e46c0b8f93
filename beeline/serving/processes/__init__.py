"""Processes of one machine that do the requests of a service."""
