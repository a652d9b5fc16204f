"""The tour: puzzles out of the atlas that is shown, honest about what fires where."""

import json
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from tests.web.conftest import SAES

from panscope.atlas.features import Atlas
from panscope.atlas.queries import Catalogue
from panscope.web import tour
from panscope.web.app import create_app


def catalogue_of(run_folder: Path) -> Catalogue:
    return Catalogue(Atlas(run_folder / "atlas"))


def test_puzzles_are_of_each_level_and_the_same_each_time(run_folder: Path) -> None:
    catalogue = catalogue_of(run_folder)
    found = tour.puzzles(catalogue, SAES[2])
    assert [puzzle.level for puzzle in found] == ["easy", "medium", "hard"]
    assert tour.puzzles(catalogue_of(run_folder), SAES[2]) == found
    for puzzle in found:
        least, most = tour.LEVELS[puzzle.level]
        peaks = catalogue.columns(SAES[2]).row(puzzle.index).peak_tokens
        assert least <= len(peaks) <= most


def test_passages_show_the_values_of_their_feature(run_folder: Path) -> None:
    catalogue = catalogue_of(run_folder)
    for puzzle in tour.puzzles(catalogue, SAES[2]):
        view = catalogue.feature(puzzle.sae, puzzle.index)
        for passage in (*puzzle.shown, *puzzle.firing):
            assert len(passage.pieces) == len(passage.values)
            assert 0 < passage.values[passage.peak] <= view.feature.max
            assert "<bos>" not in passage.pieces
        assert len(puzzle.firing) == len(puzzle.silent) == 2
        assert all(not any(passage.values) for passage in puzzle.silent)
        texts = ["".join(p.pieces) for p in (*puzzle.shown, *puzzle.firing, *puzzle.silent)]
        assert len(set(texts)) == len(texts)


def test_silent_passages_hold_no_token_on_which_the_feature_fires(run_folder: Path) -> None:
    catalogue = catalogue_of(run_folder)
    for puzzle in tour.puzzles(catalogue, SAES[2]):
        fires = {
            piece
            for passage in (*puzzle.shown, *puzzle.firing)
            for piece, value in zip(passage.pieces, passage.values, strict=True)
            if value
        }
        for passage in puzzle.silent:
            assert fires.isdisjoint(passage.pieces)


def test_the_page_holds_its_puzzles_and_steers_with_their_features(client: TestClient) -> None:
    html = client.get("/tour").text
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.S)[1])
    assert [puzzle["level"] for puzzle in data["puzzles"]] == ["easy", "medium", "hard"]
    assert data["sae"] == SAES[2]
    for puzzle in data["puzzles"]:
        feature = quote(f"{SAES[2]}:{puzzle['index']}*1")
        assert f"feature={feature}" in html


def test_without_a_suite_there_is_no_steering(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "atlas").symlink_to(run_folder / "atlas")
    assert 'href="#steer"' not in TestClient(create_app(tmp_path)).get("/tour").text


def test_a_suite_with_nothing_to_guess_says_so(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tour, "N_TRIED", 0)
    answer = client.get("/tour")
    assert answer.status_code == 200
    assert "too few examples for a puzzle" in answer.text
