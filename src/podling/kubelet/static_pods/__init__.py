"""Static pods: manifests on the node or at a URL, run without asking the API server and mirrored into it."""
