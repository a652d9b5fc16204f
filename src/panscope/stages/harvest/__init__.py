"""Read activations at many sites of a model. Model × text → Store, or a live stream of batches."""

from panscope.stages.harvest.buckets import Config, RowsFrom, stream
from panscope.stages.harvest.shards import STAGE, Work, run, seal, write

__all__ = ["STAGE", "Config", "RowsFrom", "Work", "run", "seal", "stream", "write"]
