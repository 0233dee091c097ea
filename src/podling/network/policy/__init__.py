"""NetworkPolicy: which pods may be reached, and may reach whom, enforced by nftables on their node."""
