"""DNS for services: the Kubernetes DNS specification 1.1.0, answered by every node for its own pods."""
