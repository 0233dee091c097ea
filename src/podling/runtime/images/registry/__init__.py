"""Asking registries (OCI distribution specification, and Docker's registry API v2): where, with which
credentials, and how to go on after a fault. Nothing here knows the store."""
