"""SAEDashboard's `batch-N.json`: the features of a Sae, some hundreds a file.

Neuronpedia's converter reads them; they have no room for labels. `skipped_indexes.json` lists the
features that never fired.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from panscope.atlas.features import Atlas
from panscope.atlas.records import Feature, SaeRecord
from panscope.files import write_json
from panscope.sites import Site
from panscope.stages.exchange import shown
from panscope.stages.exchange.shown import Exhibit

NAME = "sae_dashboard"


def write(exhibit: Exhibit, saes: Sequence[SaeRecord], folder: Path) -> None:
    """Write the features of each Sae into a folder of its own."""
    for sae in saes:
        _write_one(exhibit.atlas, sae, exhibit.model, folder / sae.sae)


def _write_one(atlas: Atlas, sae: SaeRecord, model: str, place: Path) -> None:
    about = {"model_id": model, "layer": Site.parse(sae.site).layer, "sae_set": sae.sae}
    dead = set(range(sae.width))
    for number, features in enumerate(shown.in_files(shown.living(atlas, sae))):
        dead -= {feature.index for feature in features}
        rows = [_feature(atlas, sae, feature) for feature in features]
        write_json(
            place / f"batch-{number}.json", {**about, "sae_id_suffix": None, "features": rows}
        )
    write_json(place / "skipped_indexes.json", {**about, "skipped_indexes": sorted(dead)})


def _feature(atlas: Atlas, sae: SaeRecord, feature: Feature) -> dict[str, Any]:
    return {
        "feature_index": feature.index,
        **shown.columns(atlas, sae, feature),
        **shown.text_read(atlas, sae),
        "vector": [],
        "activations": [
            {
                "bin_min": example.low,
                "bin_max": example.high,
                "bin_contains": example.share,
                "tokens": example.tokens,
                "values": example.values,
                "qualifying_token_index": example.peak,
            }
            for example in shown.examples(atlas, feature)
        ],
    }
