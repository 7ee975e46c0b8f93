"""One queue of several servers, in Redis."""
