"""What single kinds do differently: one file a kind."""
