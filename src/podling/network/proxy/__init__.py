"""Services: what a node does with packets for a service's addresses, in nftables."""
