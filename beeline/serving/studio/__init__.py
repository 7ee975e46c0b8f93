"""A web page for the models that are served."""
