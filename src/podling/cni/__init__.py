"""The CNI library: configuration lists, plugin chains, the result cache."""
