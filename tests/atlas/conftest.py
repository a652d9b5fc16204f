from pathlib import Path

import pytest
from tests.web.fixture_run import build


@pytest.fixture(scope="session")
def atlas_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = build(tmp_path_factory.mktemp("runs") / "demo", sites=("resid_post.0", "mlp_out.0"))
    return run / "atlas"
