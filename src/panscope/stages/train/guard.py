"""The guard: no NaN or infinity from the stream or in the weights gets into a checkpoint.

Batches are looked at on their device at every step; the host reads what was seen only now and then,
on a CPU at once, where that costs no wait.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from panscope.errors import PanscopeError
from panscope.sites import Site

NONE = -1


class Guard:
    """Remembers, on the device, the first value of each site that is not finite."""

    def __init__(self, sites: Sequence[Site], device: torch.device) -> None:
        self.sites = tuple(sites)
        self.reads_at_once = device.type == "cpu"
        self._first = torch.full((len(self.sites), 2), NONE, device=device)
        """Step and row in its batch, a row a site."""

    def see_(self, batch: Mapping[Site, Tensor], step: int) -> None:
        """Look at a batch, before or after it is trained on; `step` counts from 1."""
        sums = torch.stack([batch[site].sum(1, dtype=torch.float32) for site in self.sites])
        bad = ~sums.isfinite()  # any NaN or infinity in a row spoils its sum
        row = bad.int().argmax(1)  # of equals the first
        seen = torch.stack([torch.full_like(row, step), row], dim=1)
        is_first = bad.any(1) & (self._first[:, 0] == NONE)
        self._first = torch.where(is_first[:, None], seen, self._first)

    def check(self, last_checkpoint: str) -> None:
        """Raise for the first bad value that was seen, with site, step and position."""
        found = [(*place, site) for site, place in zip(self.sites, self._places(), strict=True)]
        for step, row, site in sorted(found, key=lambda place: place[:2]):
            if step != NONE:
                what = f"token {row} of step {step}'s batch holds NaN or infinity"
                do = f"look at that text and at the model's dtype; {last_checkpoint}"
                raise PanscopeError(f"train, activations of {site}", what, do)

    def _places(self) -> list[tuple[int, int]]:
        return [(int(step), int(row)) for step, row in self._first.tolist()]


def check_weights(state: Mapping[str, Tensor], step: int, last_checkpoint: str) -> None:
    """Raise if a tensor of a bank's state is not finite; it waits for the device once."""
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    if not floats:
        return
    device = max(floats.values(), key=torch.numel).device  # some single numbers lie on the host
    sums = [tensor.sum().isfinite().to(device) for tensor in floats.values()]
    for (name, tensor), fine in zip(floats.items(), torch.stack(sums).tolist(), strict=True):
        if not fine and not tensor.isfinite().all():  # a sum may overflow by itself
            found = f"is not finite after step {step}"
            do = "lower train.schedule.learning_rate and train into another output"
            raise PanscopeError(f"train, {name}", found, f"{do}; {last_checkpoint}")
