"""Describe every feature of every Sae in one pass over text. Model × Suite × text → Atlas."""

from panscope.stages.describe.run import Config, run

__all__ = ["Config", "run"]
