"""Where the API server's objects live: revisions, compare-and-swap, watch."""
