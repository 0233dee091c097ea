"""Gives each unbound pod a node."""
