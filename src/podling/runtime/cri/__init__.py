"""The CRI v1 contract: messages and the two services."""
