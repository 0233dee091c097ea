"""The pause program: source and build."""
