"""Requests, results and errors as bytes between processes, without pickles."""
