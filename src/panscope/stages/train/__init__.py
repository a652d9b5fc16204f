"""Train a suite: many Saes over one stream of activations. Store or live stream → Suite."""

from panscope.stages.train.objective import Config
from panscope.stages.train.run import begin, run, train_banks
from panscope.stages.train.work import BatchesFrom, Work

__all__ = ["BatchesFrom", "Config", "Work", "begin", "run", "train_banks"]
