"""Liveness, readiness and startup probes: one task a probe of a running container."""
