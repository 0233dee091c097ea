"""The cluster network between nodes."""
