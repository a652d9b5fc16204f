"""Read and write what other libraries read and write. Foreign formats ↔ Suite, Atlas."""

from panscope.stages.exchange.card import card
from panscope.stages.exchange.export import model_of, write
from panscope.stages.exchange.foreign import Ends
from panscope.stages.exchange.hub import pull, push
from panscope.stages.exchange.run import read

__all__ = ["Ends", "card", "model_of", "pull", "push", "read", "write"]
