"""Flannel: a flat network of all pods, a subnet for each node (`daemon` tells how)."""
