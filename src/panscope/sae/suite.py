"""Suite: a folder of Saes with one manifest.

    suite/
      manifest.json                     facts: `saes`, one object a Sae
      <site>/<name>/sae.safetensors     w_enc b_enc w_dec b_dec threshold, perhaps skip; folded
      <site>/<name>/sae.json            kind, k, width, the sites it reads and writes, perhaps size

A Sae's id is `<site>/<name>`, the site being the first that it writes. Weights are float32. What
evaluation measures is added to the manifest's facts.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import load_file

from panscope.dist import ALONE, Group
from panscope.errors import Corrupt, NotFound, nearest
from panscope.files import Manifest, checked, read_manifest, with_facts, write_json
from panscope.sae import pieces
from panscope.sae.sae import WEIGHTS, Sae
from panscope.sites import Site

KIND = "suite"
FILES = ("*/*/sae.safetensors", "*/*/sae.json")
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Suite:
    """A suite opened for reading."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a sealed suite; its files are checked when a Sae is loaded."""
        return cls(folder, read_manifest(folder, KIND))

    @property
    def facts(self) -> dict[str, Facts]:
        """What is known about each Sae, by id, in the order of a forward pass."""
        return {fact["sae"]: fact for fact in self.manifest.facts["saes"]}

    @property
    def names(self) -> tuple[str, ...]:
        """The ids of the Saes, in the order of a forward pass."""
        return tuple(self.facts)

    def load(self, sae: str) -> Sae:
        """Load one Sae, after checking its bytes."""
        if sae not in self.facts:
            raise NotFound(f"suite {self.folder}", f"no Sae {sae!r}", nearest(sae, self.names))
        weights = checked(self.folder, self.manifest, f"{sae}/sae.safetensors")
        described = checked(self.folder, self.manifest, f"{sae}/sae.json")
        return _read(weights, json.loads(described.read_bytes()))

    def with_metrics(self, metrics: Mapping[str, Facts], facts: Facts) -> Self:
        """Write metrics beside the Saes' facts, and `facts` beside all; return the suite anew."""
        saes = [{**fact, "metrics": metrics[sae]} for sae, fact in self.facts.items()]
        manifest = with_facts(self.folder, {**self.manifest.facts, **facts, "saes": saes})
        return type(self)(self.folder, manifest)


def write_sae(folder: Path, sae_id: str, sae: Sae, group: Group = ALONE) -> None:
    """Write one Sae's weights and description into a suite that is being made.

    In a group each process gives its slice of the latents, in order, and the first one writes.
    """
    weights = {name: getattr(sae, name) for name in WEIGHTS}
    if sae.skip is not None:
        weights["skip"] = sae.skip
    pieces.write(folder / sae_id / "sae.safetensors", weights, group)
    described = {
        "kind": "jumprelu" if sae.k is None else "topk",
        "k": sae.k,
        "width": sae.width * group.size,
        "reads": _names(sae.reads),
        "writes": _names(sae.writes),
        **({} if sae.size is None else {"size": sae.size}),
    }
    if group.is_first:
        write_json(folder / sae_id / "sae.json", described)


def _names(sites: Sequence[Site]) -> list[str]:
    return [str(site) for site in sites]


def _read(path: Path, described: Facts) -> Sae:
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise Corrupt(
            str(path), f"is not safetensors ({error})", "train the suite again"
        ) from error
    w_enc = weights["w_enc"].T.contiguous().T  # latent by latent in memory, as encoding reads it
    reads, writes = (tuple(map(Site.parse, described[key])) for key in ("reads", "writes"))
    k, size = described.get("k"), described.get("size")
    return Sae(**{**weights, "w_enc": w_enc}, reads=reads, writes=writes, k=k, size=size)
