"""Find what features mean, and how well the finding tells where they fire. Atlas → labels."""

from panscope.stages.explain.meaning import search
from panscope.stages.explain.rescore import rescore
from panscope.stages.explain.run import Config, config_of, embedding_of, refuse_unknown, run

__all__ = ["Config", "config_of", "embedding_of", "refuse_unknown", "rescore", "run", "search"]
