"""Edits applied: h' = h + sum of (f' - f) d at each site, over all edits that write there.

1. f is read off the value as the pass has it: behind the edits of earlier sites, before those of
   its own. Edits of one latent follow one another; all of a site are one sum.
2. Only tokens at which some f' differs from f are written to; the others keep their bits.

Nothing is encoded again behind an edit, and no reconstruction takes the value's place. So what the
Sae missed stays as it was, and cancels no edit (SAELens issue 326, Llamascopium issue 61).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from panscope.axes import TokenMask
from panscope.edits import Edit
from panscope.errors import ConfigError
from panscope.model import tap
from panscope.model.load import Model
from panscope.model.positions import PADDING, Positions, refuse_without_tokens
from panscope.model.ragged import Padded, Ragged, padded
from panscope.sae.sae import Sae
from panscope.sites import Site
from panscope.splice.moved import Change, Moved, gathered

PerToken = Float[Tensor, "batch position"]
PerLatent = Float[Tensor, "batch position columns"]


@dataclass(frozen=True, slots=True)
class Steered:
    """What an edited pass gave; a site that is edited and read is read behind its edits.

    `shares`: of each edit the length of what it added over that of the value it was added to, at
    the first site it writes; 0 at tokens it left alone.
    """

    values: dict[Site, Float[Tensor, "batch ..."]]
    logits: Float[Tensor, "batch _ vocab"]
    shares: tuple[PerToken, ...]


@dataclass(frozen=True, slots=True)
class Steering:
    """Edits made ready for a model: each acts on the same tokens with a KV cache and without."""

    model: Model
    moved: tuple[Moved, ...]

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits in their order."""
        changes = [change for moved in self.moved for change in moved.changes]
        return tuple(change.edit for change in sorted(changes, key=lambda change: change.number))

    @property
    def sites(self) -> frozenset[Site]:
        """The sites that are read or edited."""
        return frozenset[Site]().union(*((*m.reads, *m.sae.writes) for m in self.moved))

    def run(
        self,
        step: Padded,
        n_prompt: Sequence[int],
        read: Iterable[Site] = (),
        inputs: Mapping[str, Any] = tap.NO_CACHE,
    ) -> Steered:
        """Run the tokens of a step; of each row the first `n_prompt` are the prompt."""
        lengths = torch.tensor(n_prompt)[:, None]
        here = [tokens_of(edit, self.model, step, lengths) for edit in self.edits]
        wanted = frozenset(read)
        going = _Pass(self.moved, step.positions, here, wanted)
        sites = self.sites | wanted
        with torch.no_grad():
            logits = tap.visit(self.model, step.ids, sites, going.reach, True, inputs=inputs)
        assert logits is not None
        shares = tuple(share for _, share in sorted(going.shares.items()))
        return Steered(going.read, logits, shares)


def steering(model: Model, saes: Mapping[str, Sae], edits: Sequence[Edit]) -> Steering:
    """Make edits ready: check them, take their latents, run the texts that they patch from.

    `saes` are at least those that the edits name, by id. Raises NotFound for a feature or a site
    that is not there; ConfigError for a direction of another length and for multiples of a maximum
    (`edits.in_raw_units` turns them into numbers); Unsupported for a site that cannot be edited and
    for a crosscoder's feature that is not known where it would first be written.
    """
    return Steering(model, gathered(model, saes, edits))


def steered(
    model: Model,
    saes: Mapping[str, Sae],
    edits: Sequence[Edit],
    rows: Sequence[Sequence[int]],
    read: Iterable[Site] = (),
) -> Ragged:
    """Run rows of token ids with edits in them; each row is all prompt.

    Without edits to the bit what `ragged.run` gives. Raises as `steering` and `ragged.run` do.
    """
    batch, lengths = padded(model, rows, "right"), [len(row) for row in rows]
    for length in lengths:
        refuse_outside(edits, length, length)
    inputs = {**tap.NO_CACHE, **batch.inputs(model.device)}
    ran = steering(model, saes, edits).run(batch, lengths, read, inputs)
    values = {site: batch.rows(value) for site, value in ran.values.items()}
    return Ragged(values, batch.rows(ran.logits))


def refuse_outside(edits: Iterable[Edit], n_prompt: int, n_tokens: int) -> None:
    """Raise ConfigError for an edit at a position that a text of `n_tokens` does not have."""
    named = [(edit, edit.at) for edit in edits if isinstance(edit.at, tuple)]
    for edit, positions in named:
        for position in positions:
            if not -n_prompt <= position < n_tokens:
                found = f"position {position} is not one of the {n_tokens} tokens that are run"
                do = f"use 0 to {n_tokens - 1}, or -1 to {-n_prompt} from the prompt's end"
                raise ConfigError(f"edit {edit}", found, do)


def tokens_of(edit: Edit, model: Model, step: Padded, n_prompt: Tensor) -> TokenMask:
    """Say which tokens of a step an edit is for; `n_prompt` (batch, 1) are the prompts' lengths."""
    match edit.at:
        case "all":
            chosen = step.positions != PADDING
        case "prompt":
            chosen = (step.positions != PADDING) & (step.positions < n_prompt)
        case "generated":
            chosen = step.positions >= n_prompt
        case positions:
            wanted = [p + n_prompt if p < 0 else torch.full_like(n_prompt, p) for p in positions]
            chosen = (step.positions[..., None] == torch.cat(wanted, 1)[:, None]).any(-1)
    if edit.specials:
        return chosen
    specials = torch.tensor(sorted({*model.special_ids, model.bos_id}))
    return chosen & ~torch.isin(step.ids, specials)


@dataclass(slots=True)
class _Pass:
    """One pass: the values met so far, and how far the latents of each Sae are moved."""

    moved: tuple[Moved, ...]
    positions: Positions
    here: Sequence[TokenMask]
    wanted: frozenset[Site]
    met: dict[Site, Tensor] = field(default_factory=dict)
    moves: dict[int, PerLatent] = field(default_factory=dict)
    shares: dict[int, PerToken] = field(default_factory=dict)

    @property
    def read(self) -> dict[Site, Tensor]:
        """The values that were asked for."""
        return {site: self.met[site] for site in self.wanted}

    def reach(self, site: Site, value: Tensor) -> Tensor:
        """Return the value with all that is added to it; the edits of one site read it as met."""
        self.met[site] = value
        added = [
            self._move(number, site) @ moved.directions[site]
            for number, moved in enumerate(self.moved)
            if site in moved.directions
        ]
        if added:
            total = torch.stack(added).sum(0)
            is_moved = (total != 0).any(-1, keepdim=True)
            value = torch.where(is_moved, (value.float() + total).to(value.dtype), value)
            self.met[site] = value
        return value

    def _move(self, number: int, site: Site) -> PerLatent:
        """Return f' - f; the first site that a Sae writes finds it out."""
        if number not in self.moves:
            moved = self.moved[number]
            before = now = self._latents(moved, site)
            for change in moved.changes:
                after = now.clone()
                after[..., change.column] = self._changed(change, now[..., change.column])
                self.shares[change.number] = self._share(moved, change, after - now, site)
                now = after
            self.moves[number] = now - before
        return self.moves[number]

    def _latents(self, moved: Moved, site: Site) -> PerLatent:
        """Return the latents that are moved; zeros if it does not matter what they were."""
        value = self.met[site]
        refuse_without_tokens(value, self.positions)
        if not moved.reads:
            return value.new_zeros(*value.shape[:2], len(moved.columns), dtype=torch.float32)
        x = torch.cat([self.met[read] for read in moved.reads], -1).float()
        return moved.latents(x.flatten(0, 1)).view(*x.shape[:2], -1)

    def _changed(self, change: Change, f: PerToken) -> PerToken:
        """Return f' of one edit, at the tokens that it is for."""
        here = self.here[change.number].to(f.device)
        positions = self.positions.to(f.device)
        return torch.where(here, ruled(change, f, positions), f)

    def _share(self, moved: Moved, change: Change, move: PerLatent, site: Site) -> PerToken:
        """Return the length of what an edit adds over that of the value at a site."""
        length = vector_norm(moved.directions[site][change.column])
        there = vector_norm(self.met[site].float(), dim=-1)
        share: Tensor = move[..., change.column].abs() * length / there.clamp(min=1e-12)
        return share


def ruled(change: Change, f: PerToken, positions: Positions) -> PerToken:
    """Return f' by an edit's action, wherever it may be applied."""
    edit, value = change.edit, change.edit.value or 0.0
    match edit.action:
        case "add":
            return f + value
        case "scale":
            return f * value
        case "set" | "zero":
            return torch.full_like(f, value)
        case "clamp":
            return f.clamp(edit.low, edit.high)
        case "patch":
            assert change.patch is not None
            inside = (positions != PADDING) & (positions < len(change.patch))
            return torch.where(inside, change.patch[positions * inside], f)
