"""Neuronpedia's bulk import: tables as lines of JSON, for each Sae a source.

    v1/<model>/<source>/release.jsonl  model.jsonl  sourceset.jsonl  source.jsonl
                        features/batch-N.jsonl.gz   activations/batch-N.jsonl.gz
                        explanations/batch-N.jsonl.gz
    v1/config/explanation_type.jsonl  explanation_model_type.jsonl

A source is `<layer>-<set>`, as in `20-panscope-resid-post-w16384-l0-71-s0`. The importer takes a
table's columns from its first line, so every line has all of them, and it never updates a row: ids
are digests of what the row is of. Rows belong to `CREATOR`, whom an importer may have to replace.
Explanations are the labels of the notes; the tables in `config` hold the names they refer to.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from panscope.atlas.features import Atlas
from panscope.atlas.labels import HUMAN, Label, Score
from panscope.atlas.records import Feature, SaeRecord
from panscope.errors import Unsupported
from panscope.files import write_bytes
from panscope.sites import Site
from panscope.stages.exchange import neuronpedia_tables as tables
from panscope.stages.exchange import shown
from panscope.stages.exchange.hooks import hook_of
from panscope.stages.exchange.neuronpedia_tables import CREATOR, Row
from panscope.stages.exchange.shown import Exhibit

NAME = "neuronpedia"
Maker = tuple[str, str]
"""A method and an author, as labels name them."""


def write(exhibit: Exhibit, saes: Sequence[SaeRecord], folder: Path) -> None:
    """Write the features of each Sae as a source of its own, and who explained them."""
    now = datetime.now(UTC).isoformat()
    makers = {maker for sae in saes for maker in _write_source(exhibit, sae, folder, now)}
    for table, row_of, names in (
        ("explanation_type", tables.explanation_type, {method for method, _ in makers}),
        ("explanation_model_type", tables.explanation_model, {author for _, author in makers}),
    ):
        rows = [row_of(name, now) for name in sorted(names)]
        _lines(folder / f"v1/config/{table}.jsonl", rows)


def _write_source(exhibit: Exhibit, sae: SaeRecord, folder: Path, now: str) -> set[Maker]:
    """Write one source; return what made its labels, people apart."""
    atlas, model, site = exhibit.atlas, exhibit.model, Site.parse(sae.site)
    if site.layer is None:
        raise Unsupported(sae.sae, "is of no layer, and sources have one", "export other Saes")
    set_name = _slug(f"panscope-{sae.sae}".replace(f".{site.layer}/", "/"))
    source = f"{site.layer}-{set_name}"
    place = folder / "v1" / model / source
    own = {"modelId": model, "creatorId": CREATOR, "createdAt": now}
    text = shown.text_read(atlas, sae)
    _lines(place / "release.jsonl", [tables.release(own, set_name)])
    _lines(place / "model.jsonl", [tables.model(own)])
    has_heads = bool(atlas.feature(sae.sae, 0).head_shares)
    _lines(place / "sourceset.jsonl", [tables.source_set(own, set_name, site, has_heads)])
    _lines(place / "source.jsonl", [tables.source(own, source, set_name, text)])
    owned, makers = {**own, "layer": source}, set[Maker]()
    for number, features in enumerate(shown.in_files(shown.living(atlas, sae))):
        rows = [_feature(owned, atlas, sae, feature, set_name, site) for feature in features]
        _lines(place / f"features/batch-{number}.jsonl.gz", rows)
        labels = [label for f in features for label in exhibit.labels(sae.sae, f.index)]
        explanations = [_explanation(owned, label) for label in labels]
        _lines(place / f"explanations/batch-{number}.jsonl.gz", explanations)
        activations = [row for f in features for row in _activations(owned, atlas, f)]
        _lines(place / f"activations/batch-{number}.jsonl.gz", activations)
        makers |= {(label.method, label.author) for label in labels if label.method != HUMAN}
    return makers


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


def _explanation(own: Row, label: Label) -> Row:
    """Lay a label out; a corrected text is another row, as none is ever updated."""
    is_human = label.method == HUMAN
    known = (own["modelId"], own["layer"], label.index, label.method, label.text)
    return {
        "id": _id("explanation", *known),
        "modelId": own["modelId"],
        "layer": own["layer"],
        "index": str(label.index),
        "description": label.text,
        "embedding": None,
        "authorId": CREATOR,
        "typeName": None if is_human else label.method,
        "explanationModelName": None if is_human else label.author,
        "notes": "; ".join([f"by {label.author}", *map(_in_words, label.scores)]),
        "createdAt": label.created,
    }


def _in_words(score: Score) -> str:
    """Tell a score: the import takes none, but every explanation has room for notes."""
    if score.value is None:
        return f"{score.scorer} not answered"
    beside = "" if score.baseline is None else f", {score.baseline:.3f} by another's label"
    return f"{score.scorer} {score.value:.3f}{beside} ({score.n} answers)"


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


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _id(*parts: object) -> str:
    """Name a row by what it is of, in the shape of a cuid: 25 characters, c first."""
    return "c" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _lines(path: Path, rows: Sequence[Row]) -> None:
    """Write a table; none without rows, as the importer looks for columns in the first."""
    if not rows:
        return
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
