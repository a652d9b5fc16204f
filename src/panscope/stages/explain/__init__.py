"""Find what features mean, and how well the finding tells where they fire. Atlas → labels."""

from panscope.stages.explain.client import key_for
from panscope.stages.explain.meaning import search
from panscope.stages.explain.one import Desk, explain_one, score_one
from panscope.stages.explain.rescore import rescore
from panscope.stages.explain.run import (
    By,
    Config,
    config_of,
    embedding_of,
    refuse_unknown,
    run,
)
from panscope.stages.explain.score import MEASURES, Scorer

SCORERS: tuple[Scorer, ...] = tuple(MEASURES)

__all__ = [
    "SCORERS",
    "By",
    "Config",
    "Desk",
    "Scorer",
    "config_of",
    "embedding_of",
    "explain_one",
    "key_for",
    "refuse_unknown",
    "rescore",
    "run",
    "score_one",
    "search",
]
