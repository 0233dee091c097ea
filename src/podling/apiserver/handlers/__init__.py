"""One file a verb: each `handle` serves it for every kind, or for the one subresource it is named after."""
