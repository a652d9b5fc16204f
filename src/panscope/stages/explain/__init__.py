"""Find what features mean, and how well the finding tells where they fire. Atlas → labels."""

from panscope.stages.explain.meaning import search
from panscope.stages.explain.run import Config, run

__all__ = ["Config", "run", "search"]
