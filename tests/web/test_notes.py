"""Bookmarks and saved edits: written with the token, read by all, exported."""

import re
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from fastapi.testclient import TestClient
from tests.web.conftest import SAES

from panscope.atlas.notes import Notes

SAE = SAES[0]
STAR = f"/api/sae/{SAE}/feature/9/bookmark"
NOTHING = {"bookmarks": [], "edits": [], "lists": [], "comments": []}
EDITS = [
    {"sae": SAE, "index": 3, "value": 2.0, "unit": "max"},
    {"action": "zero", "site": "resid_post.0", "toward": "<b>oui</b>", "away": "yes"},
]


def save(client: TestClient, name: str, edits: Any = EDITS) -> Any:
    return client.post("/api/edits", json={"name": name, "edits": edits})


def test_a_bookmark_is_kept_shown_and_taken_away(writable: TestClient) -> None:
    assert "No feature is bookmarked" in writable.get("/notes").text
    for _ in range(2):
        assert writable.put(STAR).status_code == 200
    (kept,) = writable.get("/api/notes").json()["bookmarks"]
    assert (kept["sae"], kept["index"], kept["label"]) == (SAE, 9, "")
    assert f'href="/sae/{SAE}/9"' in writable.get("/notes").text
    star = '<button type="button" id="star" aria-pressed="{}"'
    assert star.format("true") in writable.get(f"/sae/{SAE}/9").text
    assert writable.delete(STAR).json()["bookmarks"] == []
    assert star.format("false") in writable.get(f"/sae/{SAE}/9").text


def test_a_run_that_was_moved_away_is_not_begun_anew(writable: TestClient, run: Path) -> None:
    away = run.rename(run.with_name("away"))
    for answer in (writable.put(STAR), writable.delete(STAR), save(writable, "rain")):
        assert answer.status_code == 404
    assert not run.exists()
    away.rename(run)
    assert writable.put(STAR).status_code == 200


def test_a_bookmark_outlives_its_sae(writable: TestClient, run: Path) -> None:
    notes = Notes.open(run / "notes.sqlite")
    notes.saved.bookmark("another/model", 3)
    notes.saved.bookmark(SAE, 64)
    notes.close()
    assert writable.get("/notes").text.count("does not have it any more") == 2
    assert writable.delete("/api/sae/another/model/feature/3/bookmark").status_code == 200


def test_edits_are_saved_and_opened_by_name(writable: TestClient) -> None:
    assert save(writable, "l'été / 2").status_code == 200
    assert save(writable, "l'été / 2", EDITS[1:]).status_code == 200
    path = "/api/edits/l%27%C3%A9t%C3%A9%20%2F%202"
    assert writable.get(path).json()["edits"] == EDITS[1:]
    assert [one["name"] for one in writable.get("/api/notes").json()["edits"]] == ["l'été / 2"]
    html = writable.get("/notes").text
    assert "zero: resid_post.0 from &#39;yes&#39; toward &#39;&lt;b&gt;oui" in html
    missed = writable.get("/api/edits/l%27ete%20%2F%202")
    assert missed.status_code == 404
    assert "did you mean l'été / 2" in missed.json()["error"]["message"]


def test_saved_edits_are_removed(writable: TestClient) -> None:
    for edits in (EDITS, EDITS[1:]):
        save(writable, "a / b?", edits)
    html = writable.get("/notes").text
    (path,) = re.findall('data-forget="(/api/edits/[^"]*)"', html)
    left = writable.delete(path)
    assert left.status_code == 200 and left.json()["edits"] == []
    assert writable.get(path).status_code == writable.delete(path).status_code == 404
    assert "No edits are saved" in writable.get("/notes").text


def test_notes_come_in_windows_and_by_sae(writable: TestClient, run: Path) -> None:
    with closing(Notes.open(run / "notes.sqlite")) as notes:
        for index in range(5):
            notes.saved.bookmark(SAE, index)
        notes.saved.bookmark("another/model", 3)
        for name in "abc":
            notes.saved.save(name, "[]")

    def shown(query: str) -> tuple[list[int], list[str]]:
        html = writable.get(f"/notes?{query}").text
        starred = re.findall("/feature/([0-9]+)/bookmark", html)
        return [int(index) for index in starred], re.findall("saved=([a-z])", html)

    assert shown("") == ([3, 4, 3, 2, 1, 0], ["c", "b", "a"])
    assert shown(f"sae={SAE}&limit=2&offset=2&edits=2") == ([2, 1], ["a"])
    html = writable.get(f"/notes?sae={SAE}&limit=2&offset=2&edits=2").text
    assert "3 to 4 of 5" in html and "3 to 3 of 3" in html
    links = re.findall('href="/notes\\?([^"]*)"', html)
    assert [parse_qs(unescape(link)).get("offset", ["0"])[0] for link in links] == ["0", "4", "2"]
    assert shown(f"offset=6&edits={10**20}") == ([], [])
    kept = writable.get("/api/notes", params={"sae": "another/model"}).json()
    assert [one["index"] for one in kept["bookmarks"]] == [3] and len(kept["edits"]) == 3
    for path in ("/notes", "/api/notes"):
        wrong = writable.get(path, params={"sae": f"{SAE}x"})
        assert wrong.status_code == 404 and f"did you mean {SAE}" in wrong.text
        assert writable.get(path, params={"sae": "x" * 3_000}).status_code in (404, 414, 422)


@pytest.mark.parametrize(
    ("name", "edits", "status", "words"),
    [
        (" ", EDITS, 422, "the name of edits: is empty"),
        ("x" * 201, EDITS, 422, "200"),
        ("a", [{**EDITS[0], "value": None}], 422, "edit 0: cannot be used; add needs value"),
        ("a", [EDITS[1], {**EDITS[0], "index": 64}], 404, "from 0 to 63"),
        ("a", EDITS * 9, 422, "at most 16"),
    ],
)
def test_what_is_no_edit_is_not_kept(
    writable: TestClient, name: str, edits: Any, status: int, words: str
) -> None:
    answer = save(writable, name, edits)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]
    assert writable.get("/api/notes").json() == NOTHING


def test_nobody_writes_without_the_token(writable: TestClient, client: TestClient) -> None:
    writable.headers["authorization"] = "Bearer x"
    for answer in (
        *(writable.put(STAR), writable.delete(STAR)),
        *(save(writable, "a"), writable.delete("/api/edits/a")),
    ):
        assert answer.status_code == 401
    assert client.put(STAR).status_code == client.delete("/api/edits/a").status_code == 403
    assert client.get("/api/notes").json() == NOTHING


def test_only_features_that_are_there_are_kept(writable: TestClient) -> None:
    assert writable.put(f"/api/sae/{SAE}/feature/64/bookmark").status_code == 404
    assert writable.put(f"/api/sae/{SAE}x/feature/0/bookmark").status_code == 404
