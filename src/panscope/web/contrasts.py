"""Contrasts of a run: finished ones as pages and over REST, a new one begun and cancelled."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from panscope import files
from panscope.errors import ConfigError, NotFound, PanscopeError, nearest
from panscope.web.api import Name, Run
from panscope.web.background import WorkView
from panscope.web.pages import page
from panscope.web.problem import FAILURES, Refused
from panscope.web.progress import StageView
from panscope.web.run import RunFolder
from panscope.web.writing import may_write

STAGE = "contrast"
FEWEST = 8  # prompts of a set, as the stage asks: it would say so only after loading the model
N_PEAK_TOKENS = 3
N_PASSAGES = 48  # of a kind of text
PASSAGE_TOKENS = 32
Prompt = Annotated[str, Field(max_length=4_000)]
Prompts = Annotated[list[Prompt], Field(max_length=1_000)]

router = APIRouter(prefix="/api", responses=FAILURES, tags=["contrast"])
page_router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)


class ContrastRequest(BaseModel):
    """Two sets to contrast, each of prompts or of passages of a kind of the run's text.

    `pool` is what is made of a prompt's tokens; `answers` are two whose logits are compared.
    """

    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    a: Prompts = []
    b: Prompts = []
    a_kind: Name = ""
    b_kind: Name = ""
    pool: Literal["mean", "max", "last"] = "mean"
    answers: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=2)] = []


@dataclass(frozen=True, slots=True)
class ContrastWork:
    """The contrast that was begun last from here; how far it is, when it has loaded the model."""

    work: WorkView | None
    stage: StageView | None


@router.get("/contrasts")
def contrasts(run: Run) -> dict[str, dict[str, Any]]:
    """List the contrasts of the run by name: the prompts of each set, and how much differs."""
    return {name: dict(manifest.facts) for name, manifest in finished(run).items()}


@router.post("/contrasts", status_code=202, dependencies=[Depends(may_write)])
def begin(run: Run, request: ContrastRequest) -> WorkView:
    """Begin a contrast in the background, as `panscope contrast` does it; one at a time."""
    if not run.has_suite:
        raise NotFound(f"{run.folder.name}/suite", "is not there", "run panscope train")
    if (run.folder / STAGE / request.name).exists():
        found = f"{request.name!r} is there already"
        raise Refused(409, "contrast", found, "choose another name")
    inputs = {
        "a.json": json.dumps(_prompts(run, "a", request.a, request.a_kind)),
        "b.json": json.dumps(_prompts(run, "b", request.b, request.b_kind)),
    }
    return run.background.start(request.name, _arguments(run, request), inputs)


@router.get("/contrasts/work")
def at_work(run: Run) -> ContrastWork:
    """Say how far the contrast is that was begun last."""
    work = run.background.view()
    stages = run.progress.view().stages if work else ()
    own = (one for one in stages if work and one.stage == STAGE and one.began >= work.began)
    return ContrastWork(work, next(own, None))


@router.post("/contrasts/cancel", dependencies=[Depends(may_write)])
def cancel(run: Run) -> ContrastWork:
    """End the contrast that is at work; nothing of it is kept."""
    return ContrastWork(run.background.cancel(), None)


@router.get("/contrast/{name}")
def contrast(run: Run, name: str) -> dict[str, Any]:
    """Give one contrast: the features that differ, and of each Sae its probes and ablations."""
    known = dict(_manifests(run))
    if name not in known:  # names come from the folder's own list, never from the address
        raise NotFound("contrast", f"no {name!r}", nearest(name, known))
    if isinstance(manifest := known[name], PanscopeError):
        raise manifest
    path = files.checked(run.folder / "contrast" / name, manifest, "result.json")
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


@page_router.get("/contrast")
def contrasts_page(request: Request, run: Run) -> HTMLResponse:
    """Show the list of contrasts."""
    kinds = [c.kind for c in run.catalogue.contexts.one_of_each_kind()]
    damaged = [str(m) for _, m in _manifests(run) if isinstance(m, PanscopeError)]
    values = {"contrasts": contrasts(run), "damaged": damaged, "kinds": kinds, "fewest": FEWEST}
    return page(request, "contrasts.html", **values)


@page_router.get("/contrast/{name}")
def contrast_page(request: Request, run: Run, name: str) -> HTMLResponse:
    """Show one contrast."""
    result = contrast(run, name)
    probes = sorted(result["saes"][0]["probes"], key=_n_latents)
    peaks = [_peak_pieces(run, one["sae"], one["index"]) for one in result["found"]]
    labels = [run.label_text(one["sae"], one["index"]) for one in result["found"]]
    values = {
        "contrast": name,
        "result": result,
        "probes": probes,
        "peaks": peaks,
        "labels": labels,
    }
    return page(request, "contrast.html", **values)


def _n_latents(probe: str) -> float:
    """How many latents a probe sees, for the order of columns: those of the whole stream last.

    >>> sorted(["20 latents", "difference of means", "5 latents"], key=_n_latents)
    ['5 latents', '20 latents', 'difference of means']
    """
    first = probe.partition(" ")[0]
    return int(first) if first.isdecimal() else math.inf


def finished(run: RunFolder) -> dict[str, files.Manifest]:
    """Read the manifests of the contrasts that are finished and whole, by name."""
    return {name: m for name, m in _manifests(run) if isinstance(m, files.Manifest)}


def _manifests(run: RunFolder) -> Iterator[tuple[str, files.Manifest | PanscopeError]]:
    """Yield each contrast's manifest, or what is wrong with it: the others stay readable."""
    for path in sorted((run.folder / STAGE).glob(f"*/{files.MANIFEST}")):
        try:
            yield path.parent.name, files.read_manifest(path.parent, "contrast")
        except PanscopeError as error:
            yield path.parent.name, error


def _peak_pieces(run: RunFolder, sae: str, index: int) -> list[str]:
    """The tokens on which a feature fires most strongly; none if the atlas lacks the Sae."""
    catalogue = run.catalogue
    if sae not in catalogue.atlas.saes:
        return []
    peaks = catalogue.columns(sae).row(index).peak_tokens[:N_PEAK_TOKENS]
    return list(catalogue.pieces(peaks).values())


def _prompts(run: RunFolder, name: str, given: list[str], kind: str) -> list[str]:
    """The prompts of a set: as given, or passages of a kind of text, if they are enough."""
    prompts = _passages(run, kind) if kind else [prompt for prompt in given if prompt.strip()]
    if len(prompts) < FEWEST:
        raise ConfigError(f"set {name}", f"has {len(prompts)} prompts", f"give {FEWEST} or more")
    return prompts


def _passages(run: RunFolder, kind: str) -> list[str]:
    """The beginnings of some rows of the atlas's text; NotFound names the nearest kinds."""
    contexts, pieces = run.catalogue.contexts, run.catalogue.atlas.pieces
    rows = contexts.of_kind(kind, N_PASSAGES)
    if not rows:
        known = nearest(kind, (one.kind for one in contexts.one_of_each_kind()))
        raise NotFound("the run's text", f"has no kind {kind!r}", known)
    return ["".join(pieces[token] for token in row.tokens[1 : 1 + PASSAGE_TOKENS]) for row in rows]


def _arguments(run: RunFolder, request: ContrastRequest) -> list[str]:
    """The command that does what was asked for."""
    folder = run.folder.resolve()
    output = str(folder / STAGE / request.name)
    more = [f"pool={request.pool}"]
    if request.answers:
        more.append(f"answers={json.dumps(request.answers, ensure_ascii=False)}")  # TOML
    return [STAGE, str(folder), *more, "--a", "a.json", "--b", "b.json", "--output", output]
