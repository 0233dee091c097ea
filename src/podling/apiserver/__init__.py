"""The Kubernetes REST API."""
