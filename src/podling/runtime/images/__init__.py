"""Images: the store, archives, unpacking, building."""
