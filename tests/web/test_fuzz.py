"""Random and malformed requests, drawn from the OpenAPI: none may be answered with a 500."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tests.web.conftest import SAES
from tests.web.fixture_run import FakeLive

from panscope.web.app import create_app

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

N_ROUTES = 53
SOURCE = "1-resid_post-w64_l0_30_s0"
KNOWN = {"sae": SAES[2], "modelId": "pocket", "source": SOURCE, "sourceSet": SOURCE[2:]}
KNOWN |= {"saes": [SAES[0]], "selectedLayers": [], "layers": []}


def with_known_names(part: Any) -> Any:
    """Put names that exist in the place of those that were drawn, so that routes are entered."""
    if not isinstance(part, dict):
        return part
    return {key: KNOWN.get(key, with_known_names(value)) for key, value in part.items()}


def draw_and_send(run_folder: Path, n_each: int) -> list[int]:
    """Send `n_each` requests to every route, half of them against the schema; give the statuses."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(run_folder, FakeLive(SAES)))
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    statuses: list[int] = []

    def send(case: Any, is_known: bool) -> None:
        if is_known:
            case.path_parameters = with_known_names(case.path_parameters)
            case.body = with_known_names(case.body)
        answer = case.call()
        statuses.append(answer.status_code)
        assert answer.status_code < 500, (case.as_curl_command(), answer.text)
        if answer.status_code >= 400:
            assert set(answer.json()) == {"error"}, answer.text

    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == N_ROUTES
    for operation in operations:
        cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])
        checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
        few = settings(
            max_examples=n_each,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=checks,
        )
        seed(0)(few(given(cases, st.booleans())(send)))()
    return statuses


@pytest.mark.slow
def test_a_thousand_requests_without_a_500(run_folder: Path) -> None:
    statuses = draw_and_send(run_folder, 32)
    assert len(statuses) >= 1_000 and {200, 404, 422} <= set(statuses)
