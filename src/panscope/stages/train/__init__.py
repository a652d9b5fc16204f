"""Train a suite: many Saes over one stream of activations. Store or live stream → Suite."""

from panscope.stages.train.loop import BatchesFrom, begin, run, work
from panscope.stages.train.objective import Config

__all__ = ["BatchesFrom", "Config", "begin", "run", "work"]
