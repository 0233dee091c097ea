"""Volumes of the pods on this node: prepared before containers start, gone with the pod."""
