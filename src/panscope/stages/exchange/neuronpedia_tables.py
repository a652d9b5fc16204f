"""Rows of Neuronpedia's tables that are of no single feature: what a source belongs to.

Columns are those of its database. What we have nothing for is null, empty or false.
"""

from typing import Any

from panscope.sites import Site

CREATOR = "panscope"
Row = dict[str, Any]


def release(own: Row, name: str) -> Row:
    """Return the row of a release of one source set."""
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


def model(own: Row) -> Row:
    """Return the row of the model."""
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


def source_set(own: Row, name: str, site: Site, has_heads: bool) -> Row:
    """Return the row of the Saes of one kind of site and one size; heads are shown if asked to."""
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
        "showHeadAttribution": has_heads,
        **{f"show{what}": False for what in ("Dfa", "Correlated", "Umap")},
    }


def source(own: Row, source: str, name: str, text: Row) -> Row:
    """Return the row of one Sae, with the text its features were found in."""
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


def explanation_type(method: str, created: str) -> Row:
    """Return the row of a method by which labels are made; a label refers to it by name."""
    about = {"displayName": method, "description": f"Labels by panscope's {method}"}
    return {"name": method, **about, "featured": False, **_made(created), "creatorId": CREATOR}


def explanation_model(author: str, created: str) -> Row:
    """Return the row of what made labels: a language model, or rules."""
    about = {"displayName": author, "description": f"Explains features for panscope: {author}"}
    return {"name": author, **about, "featured": False, **_made(created)}


def _made(created: str) -> Row:
    return {"creatorName": CREATOR, "createdAt": created}
