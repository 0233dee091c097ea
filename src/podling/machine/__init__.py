"""Many nodes on one machine: node sandboxes, the switch between them, the supervisor."""
