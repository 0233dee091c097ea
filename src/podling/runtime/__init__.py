"""The pod runtime: the CRI's RuntimeService and ImageService over crun and conmon."""
