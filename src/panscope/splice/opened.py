"""Opened: the model, the suite and the atlas of one run, to be put to work together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from panscope.atlas.features import Atlas
from panscope.edits import Edit, in_raw_units, refuse_unknown
from panscope.errors import Unsupported
from panscope.model import load
from panscope.model.load import Model
from panscope.sae.suite import Suite
from panscope.splice.edited import Steering, steering


@dataclass(frozen=True, slots=True)
class Opened:
    """A model, Saes trained on it, and what is known of their features."""

    model: Model
    suite: Suite
    atlas: Atlas

    def steering(self, edits: Sequence[Edit]) -> Steering:
        """Make edits ready: multiples of maxima by the atlas, Saes from the suite.

        Raises as `splice.steering` does, and ConfigError for a multiple of what never fired.
        """
        refuse_unknown(edits, {name: fact["width"] for name, fact in self.suite.facts.items()})
        raw = in_raw_units(edits, lambda sae, index: self.atlas.feature(sae, index).max)
        named = {sae for edit in raw for sae, _ in edit.features}
        saes = {sae: self.suite.load(sae) for sae in named}
        return steering(self.model, saes, raw)


def opened(run: Path) -> Opened:
    """Open the atlas and the suite of a run folder, and load the model that the atlas names.

    Raises as opening each does, and Unsupported if they do not belong together.
    """
    return joined(Atlas(run / "atlas"), run / "suite")


def joined(atlas: Atlas, suite: Path) -> Opened:
    """Join a suite and the model to an atlas of them."""
    if "model" not in atlas.manifest.facts:
        do = "run describe again with this panscope"
        raise Unsupported(str(atlas.folder), "does not say which model it is of", do)
    known = Suite.open(suite)
    model = load.load(load.Config.parse(atlas.manifest.facts["model"], f"{atlas.folder} model"))
    for name, digest in (("model", model.digest), ("suite", known.manifest.digest)):
        if atlas.manifest.inputs.get(name, digest) != digest:
            found = f"was made from another {name} than the one there now"
            raise Unsupported(str(atlas.folder), found, "run describe again")
    return Opened(model, known, atlas)
