"""The Kubernetes REST API over a store."""
