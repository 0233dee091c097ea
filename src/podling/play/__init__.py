"""Manifests run by the runtime alone, with no cluster: `podling play`. See `run`."""
