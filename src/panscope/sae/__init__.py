"""Sparse autoencoders as values, and suites of them on disk."""
