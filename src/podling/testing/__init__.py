"""Help for tests of Podling and of what runs on it."""
