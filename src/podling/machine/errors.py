"""What is wrong with what the user asked for."""

from __future__ import annotations


class ConfigError(ValueError):
    """A cluster that cannot be made as asked; the text says why and what to do."""
