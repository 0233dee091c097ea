"""Podling runs Kubernetes pods for real, from Python."""
