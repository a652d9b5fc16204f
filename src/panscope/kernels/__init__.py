"""Numeric operations. `reference` defines each; the other bodies are tested against it."""
