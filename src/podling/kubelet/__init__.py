"""The node agent: makes the node's pods what the API says."""
