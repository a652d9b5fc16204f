"""The legend of axis names, and the array types that are written with them.

| axis     | runs over                                             |
|----------|-------------------------------------------------------|
| batch    | sequences of one forward pass                         |
| position | tokens within a sequence, the BOS being position 0    |
| tokens   | activation vectors, wherever they came from           |
| d_model  | the residual stream                                   |
| heads    | attention's query heads, side by side at `attn_z`     |
| d_in     | what a Sae reads                                      |
| d_out    | what a Sae writes                                     |
| latents  | coordinates of a Sae                                  |
| vocab    | the tokenizer's pieces                                |
| bins     | bins of a histogram                                   |
| k        | the kept few of a top-k                               |
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Activations = Float[Tensor, "tokens d_in"]
Latents = Float[Tensor, "tokens latents"]
TokenIds = Int[Tensor, "batch position"]
TokenMask = Bool[Tensor, "batch position"]
