"""Node-pressure eviction: what the node runs short of, and which pods have to leave for it."""
