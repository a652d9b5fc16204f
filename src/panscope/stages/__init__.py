"""Verbs: what reads some artefacts and writes others; they meet on disk alone."""
