"""Read and write what other libraries read and write. Foreign formats ↔ Suite, Atlas."""

from panscope.stages.exchange.card import card
from panscope.stages.exchange.export import model_of, write
from panscope.stages.exchange.foreign import Ends
from panscope.stages.exchange.hub import pull, push
from panscope.stages.exchange.named import named
from panscope.stages.exchange.recipe import write_recipe
from panscope.stages.exchange.run import read

__all__ = [
    "Ends",
    "card",
    "model_of",
    "named",
    "pull",
    "push",
    "read",
    "write",
    "write_recipe",
]
