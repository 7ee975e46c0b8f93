"""Images that are read one by one: from the library of the hub, and from tar shards."""
