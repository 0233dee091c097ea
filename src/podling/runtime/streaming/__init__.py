"""Exec, attach and port-forward streams over WebSocket and SPDY."""
