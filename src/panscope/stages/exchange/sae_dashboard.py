"""SAEDashboard's `batch-N.json`: the features of a Sae, some hundreds a file.

Neuronpedia's converter reads them. `skipped_indexes.json` lists the features that never fired.
"""

from pathlib import Path
from typing import Any

from panscope.atlas.features import Atlas
from panscope.atlas.records import Feature, SaeRecord
from panscope.files import write_json
from panscope.sites import Site
from panscope.stages.exchange import shown

NAME = "sae_dashboard"


def write(atlas: Atlas, sae: SaeRecord, model: str, folder: Path) -> None:
    """Write the features of a Sae into a folder of its own."""
    about = {"model_id": model, "layer": Site.parse(sae.site).layer, "sae_set": sae.sae}
    place, dead = folder / sae.sae, set(range(sae.width))
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
