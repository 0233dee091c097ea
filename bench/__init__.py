"""Benchmarks of Podling: `make bench`, or `python -m bench [SCENARIO ...]` as root."""
