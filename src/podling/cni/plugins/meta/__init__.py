"""Plugins that adjust what others made."""
