"""The kernel, thin and typed, with no policy: namespaces, netlink, nftables, mounts, cgroups, pidfds."""
