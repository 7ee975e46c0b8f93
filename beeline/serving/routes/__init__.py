"""The routes of the HTTP interface, in groups.

A group is a function that gives a router for a backend; ``ROUTERS`` of ``beeline.serving.app`` names all of them.
"""
