"""Kubernetes kinds as types, and what is true of them without a server.

That is: names, defaults, validation, quantities, selectors.
"""
