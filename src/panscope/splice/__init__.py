"""A Model with Saes in it: values replaced by reconstructions, and edits of single features."""

from panscope.splice.beside import Beside, Guess, Written, beside
from panscope.splice.edited import Steering, steered, steering
from panscope.splice.opened import Opened, joined, opened
from panscope.splice.replaced import Clean, Sums, clean, finite, logits, rebuilt, side_by_side

__all__ = [
    "Beside",
    "Clean",
    "Guess",
    "Opened",
    "Steering",
    "Sums",
    "Written",
    "beside",
    "clean",
    "finite",
    "joined",
    "logits",
    "opened",
    "rebuilt",
    "side_by_side",
    "steered",
    "steering",
]
