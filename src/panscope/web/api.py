"""The REST API: the same reads as the pages, as JSON; documented at /docs from /openapi.json."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Annotated

import fastapi
import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from panscope.atlas.alive import DensityHistogram, random_alive
from panscope.atlas.queries import Catalogue, FeaturePage, Query
from panscope.atlas.records import FeatureRow
from panscope.atlas.views import FeatureView
from panscope.web.problem import FAILURES
from panscope.web.readings import Activations, Microscope
from panscope.web.run import RunFolder, SaeView, SuiteView

Name = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=20_000)]


class TestRequest(BaseModel):
    """A text to run one feature on."""

    __test__ = False  # not a test case, whatever pytest makes of the name
    model_config = ConfigDict(extra="forbid")
    sae: Name
    index: int
    text: Text


class MicroscopeRequest(BaseModel):
    """A text to put under the microscope; no `saes` means the first Sae of every site."""

    model_config = ConfigDict(extra="forbid")
    text: Text
    k: int = Field(default=5, ge=1, le=20)
    max_density: float = Field(default=1.0, gt=0, le=1)
    saes: list[Name] = Field(default_factory=list, max_length=1_000)


def run_of(request: Request) -> RunFolder:
    """The run folder that this app shows."""
    run: RunFolder = request.app.state.run
    request.state.atlas = run.atlas_marks
    return run


Run = Annotated[RunFolder, Depends(run_of)]
Asked = Annotated[Query, Depends()]
Offset = Annotated[int, fastapi.Query(ge=0)]
Limit = Annotated[int, fastapi.Query(ge=1, le=500)]

router = APIRouter(prefix="/api", responses=FAILURES)


@router.get("/suite", tags=["suite"])
def suite(run: Run) -> SuiteView:
    """Describe the run: model, Saes, metrics, and what is missing."""
    return run.suite()


@router.get("/suite.csv", tags=["suite"], response_class=StreamingResponse)
def suite_csv(run: Run) -> StreamingResponse:
    """Export the table of Saes as CSV."""
    return csv_response("suite.csv", suite_lines(run.suite()))


@router.get("/saes", tags=["suite"])
def saes(run: Run) -> list[SaeView]:
    """List the Saes in the order of a forward pass."""
    return list(run.suite().saes)


@router.get("/sae/{sae:path}/features.csv", tags=["Sae"], response_class=StreamingResponse)
def features_csv(run: Run, sae: str, query: Asked) -> StreamingResponse:
    """Export all features that answer a query as CSV."""
    lines = feature_lines(run.catalogue, sae, query)
    return csv_response(f"{sae.replace('/', '_')}.csv", lines)


@router.get("/sae/{sae:path}/features", tags=["Sae"])
def features(
    run: Run, sae: str, query: Asked, offset: Offset = 0, limit: Limit = 100
) -> FeaturePage:
    """List features, sorted and filtered, a window at a time.

    `text` is looked for, case aside, in the tokens a feature promotes and in those it peaks on.
    """
    return run.catalogue.page(sae, query, offset, limit)


@router.get("/sae/{sae:path}/densities", tags=["Sae"])
def densities(run: Run, sae: str) -> DensityHistogram:
    """Count features by the log10 of their density."""
    return run.catalogue.densities(sae)


@router.get("/sae/{sae:path}/map", tags=["Sae"], response_class=Response)
def places(run: Run, sae: str) -> Response:
    """Give the map of a Sae's features as little-endian float32: all x, all y, all log10(density).

    The logarithm of a dead feature's density is minus infinity.
    """
    place = run.catalogue.place(sae)
    with np.errstate(divide="ignore"):
        logs = np.log10(run.catalogue.columns(sae).density)
    numbers = np.concatenate([place.T.reshape(-1), logs]).astype("<f4")
    return Response(numbers.tobytes(), media_type="application/octet-stream")


@router.get("/sae/{sae:path}/random", tags=["Sae"])
def random_feature(run: Run, sae: str) -> FeatureRow:
    """Pick any alive feature."""
    columns = run.catalogue.columns(sae)
    return columns.row(random_alive(columns, np.random.default_rng()))


@router.get("/sae/{sae:path}/feature/{index}", tags=["feature"])
def feature(run: Run, sae: str, index: int) -> FeatureView:
    """Give one feature with examples, contexts, logits and neighbours."""
    return run.catalogue.feature(sae, index)


@router.get("/sae/{sae:path}", tags=["Sae"])
def one_sae(run: Run, sae: str) -> SaeView:
    """Describe one Sae and its metrics."""
    return run.sae(sae)


@router.post("/test", tags=["live"])
def test(run: Run, request: TestRequest) -> Activations:
    """Run one feature on a text; loads the model on first use."""
    run.catalogue.atlas.sae(request.sae)
    run.catalogue.atlas.feature(request.sae, request.index)
    with run.turns.take():
        return run.live.activations(request.text, request.sae, request.index)


@router.post("/microscope", tags=["live"])
def microscope(run: Run, request: MicroscopeRequest) -> Microscope:
    """Find the strongest features of every token of a text; loads the model on first use."""
    chosen = request.saes or first_of_each_site(run.catalogue)
    for sae in chosen:
        run.catalogue.atlas.sae(sae)
    with run.turns.take():
        return run.live.microscope(request.text, request.k, request.max_density, chosen)


def first_of_each_site(catalogue: Catalogue) -> list[str]:
    """One Sae a site, the first in the order of the atlas."""
    firsts: dict[str, str] = {}
    for record in catalogue.atlas.saes.values():
        firsts.setdefault(record.site, record.sae)
    return list(firsts.values())


def suite_lines(suite: SuiteView) -> Iterator[list[object]]:
    """The table of Saes as lines of cells, the header first."""
    names = ("l0", "fvu", "delta_loss", "loss_recovered_zero", "kl", "dead_share")
    yield ["sae", "site", "width", "n_alive", *names]
    for sae in suite.saes:
        measured = [(sae.metrics or {}).get(name, "") for name in names]
        yield [sae.sae, sae.site, sae.width, sae.n_alive, *measured]


def feature_lines(catalogue: Catalogue, sae: str, query: Query) -> Iterator[list[object]]:
    """The features a query found as lines of cells; tokens are JSON, which keeps their blanks."""
    columns, found = catalogue.columns(sae), catalogue.select(sae, query)
    shown = catalogue.atlas.pieces
    yield ["index", "density", "max", "mean", "top_tokens", "peak_tokens"]
    for index in found.tolist():
        row = columns.row(index)
        tokens = (row.top_tokens, row.peak_tokens)
        texts = [json.dumps([shown[t] for t in some], ensure_ascii=False) for some in tokens]
        yield [row.index, row.density, row.max, row.mean, *texts]


def csv_response(name: str, lines: Iterator[list[object]]) -> StreamingResponse:
    """Stream lines of cells as a CSV file; the first line is made at once, so that errors show."""
    first = next(lines)
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(_encoded(first, lines), media_type="text/csv", headers=headers)


def _encoded(first: list[object], lines: Iterator[list[object]]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    for line in (first, *lines):
        writer.writerow(line)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
