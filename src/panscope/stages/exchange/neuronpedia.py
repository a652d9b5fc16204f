"""Neuronpedia's bulk import: tables as lines of JSON, for each Sae a source.

    v1/<model>/<source>/release.jsonl  model.jsonl  sourceset.jsonl  source.jsonl
                        features/batch-N.jsonl.gz   activations/batch-N.jsonl.gz

A source is `<layer>-<set>`, as in `20-panscope-resid-post-w16384-l0-71-s0`. The importer takes a
table's columns from its first line, so every line has all of them, and it never updates a row: ids
are digests of what the row is of. Rows belong to `CREATOR`, whom an importer may have to replace.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from panscope.atlas.features import Atlas
from panscope.atlas.records import Feature, SaeRecord
from panscope.errors import Unsupported
from panscope.files import write_bytes
from panscope.sites import Site
from panscope.stages.exchange import shown
from panscope.stages.exchange.hooks import hook_of

NAME = "neuronpedia"
CREATOR = "panscope"
Row = dict[str, Any]


def write(atlas: Atlas, sae: SaeRecord, model: str, folder: Path) -> None:
    """Write the features of a Sae as a source of its own."""
    site = Site.parse(sae.site)
    if site.layer is None:
        raise Unsupported(sae.sae, "is of no layer, and sources have one", "export other Saes")
    set_name = _slug(f"panscope-{sae.sae}".replace(f".{site.layer}/", "/"))
    source = f"{site.layer}-{set_name}"
    place, now = folder / "v1" / model / source, datetime.now(UTC).isoformat()
    own = {"modelId": model, "creatorId": CREATOR, "createdAt": now}
    _lines(place / "release.jsonl", [_release(own, set_name)])
    _lines(place / "model.jsonl", [_model(own)])
    _lines(place / "sourceset.jsonl", [_source_set(own, set_name, site)])
    _lines(place / "source.jsonl", [_source(own, source, set_name, shown.text_read(atlas, sae))])
    owned = {**own, "layer": source}
    for number, features in enumerate(shown.in_files(shown.living(atlas, sae))):
        rows = [_feature(owned, atlas, sae, feature, set_name, site) for feature in features]
        _lines(place / f"features/batch-{number}.jsonl.gz", rows)
        activations = (row for f in features for row in _activations(owned, atlas, f))
        _lines(place / f"activations/batch-{number}.jsonl.gz", activations)


def _feature(
    own: Row, atlas: Atlas, sae: SaeRecord, feature: Feature, set_name: str, site: Site
) -> Row:
    return {
        **own,
        "index": str(feature.index),
        "sourceSetName": set_name,
        "maxActApprox": shown.rounded(feature.max),
        "hasVector": False,
        "vector": [],
        "vectorLabel": None,
        "vectorDefaultSteerStrength": shown.rounded(feature.max),
        "hookName": hook_of(site),
        "topkCosSimIndices": list(feature.neighbours),
        "topkCosSimValues": [shown.rounded(cosine) for cosine in feature.neighbour_cosines],
        **shown.columns(atlas, sae, feature),
    }


def _activations(own: Row, atlas: Atlas, feature: Feature) -> Iterable[Row]:
    for number, example in enumerate(shown.examples(atlas, feature)):
        peak = max(range(len(example.values)), key=example.values.__getitem__)
        yield {
            **own,
            "id": _id(own["modelId"], own["layer"], feature.index, number),
            "index": str(feature.index),
            "tokens": example.tokens,
            "values": example.values,
            "maxValue": example.values[peak],
            "maxValueTokenIndex": peak,
            "minValue": min(example.values),
            "binMin": example.low,
            "binMax": example.high,
            "binContains": example.share,
            "qualifyingTokenIndex": example.peak,
            **dict.fromkeys(("dataIndex", "dataSource", "dfaTargetIndex")),
            **dict.fromkeys(("dfaMaxValue", "logitContributions")),
            **{name: [] for name in ("dfaValues", "lossValues", "zIndices", "zValues")},
        }


def _release(own: Row, name: str) -> Row:
    shared = {key: own[key] for key in ("creatorId", "createdAt")}
    return {
        **shared,
        "name": name,
        "description": "Sparse autoencoders described by panscope",
        "descriptionShort": "Sparse autoencoders described by panscope",
        "creatorName": CREATOR,
        "creatorNameShort": CREATOR,
        "creatorEmail": None,
        "visibility": "UNLISTED",
        "isNewUi": True,
        "featured": False,
        "urls": [],
        "defaultSourceSetName": name,
        "defaultSourceId": None,
        "defaultUmapSourceIds": [],
    }


def _model(own: Row) -> Row:
    return {
        "id": own["modelId"],
        "creatorId": own["creatorId"],
        "createdAt": own["createdAt"],
        "updatedAt": own["createdAt"],
        "displayName": own["modelId"],
        "displayNameShort": own["modelId"],
        "instruct": own["modelId"].endswith("-it"),
        "visibility": "UNLISTED",
        "inferenceEnabled": False,
        **dict.fromkeys(("tlensId", "dimension", "layers", "neuronsPerLayer", "owner")),
        **dict.fromkeys(("defaultSourceSetName", "defaultSourceId", "website")),
    }


def _source_set(own: Row, name: str, site: Site) -> Row:
    return {
        **own,
        "name": name,
        "description": f"Sparse autoencoders of {site.kind}",
        "type": site.kind,
        "hasDashboards": True,
        "visibility": "UNLISTED",
        "creatorName": CREATOR,
        "creatorEmail": None,
        "releaseName": name,
        "urls": [],
        "defaultOfModelId": None,
        "defaultRange": 1,
        "defaultShowBreaks": True,
        **{f"show{what}": False for what in ("Dfa", "Correlated", "HeadAttribution", "Umap")},
    }


def _source(own: Row, source: str, name: str, text: Row) -> Row:
    return {
        **own,
        "num_prompts": text["n_prompts_total"],
        "num_tokens_in_prompt": text["n_tokens_in_prompt"],
        "dataset": text["dataset"],
        "id": source,
        "setName": name,
        "hasDashboards": True,
        "inferenceEnabled": False,
        "inferenceHosts": [],
        "visibility": "UNLISTED",
        **dict.fromkeys(("saelensConfig", "saelensRelease", "saelensSaeId", "notes")),
        **dict.fromkeys(("hfRepoId", "hfFolderId", "defaultOfModelId")),
        **{f"hasUmap{what}": False for what in ("", "LogSparsity", "Clusters")},
    }


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _id(*parts: object) -> str:
    """Name a row by what it is of, in the shape of a cuid: 25 characters, c first."""
    return "c" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _lines(path: Path, rows: Iterable[Row]) -> None:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
