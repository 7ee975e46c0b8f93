"""Controls: pictures that say what a flow transformer shall give."""
