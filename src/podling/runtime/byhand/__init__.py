"""Containers run by hand, as with docker: no cluster, no daemon, no pause. See `hand`."""
