"""Describe every feature of every Sae in one pass over text. Model × Suite × text → Atlas."""

from panscope.stages.describe.run import Config, Work, read, run, seal, tell

__all__ = ["Config", "Work", "read", "run", "seal", "tell"]
