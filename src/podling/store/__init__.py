"""Where the API server keeps objects: key, revision, watch."""
