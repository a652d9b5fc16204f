"""Measure every Sae of a suite on held-out text. Model × Suite × text → metrics, report."""

from panscope.stages.evaluate.report import report
from panscope.stages.evaluate.run import Config, run

__all__ = ["Config", "report", "run"]
