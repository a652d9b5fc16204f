"""Lists and comments: over REST, on pages, in frozen copies, for clients of Neuronpedia."""

import re
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.atlas.test_lists import made_by
from tests.web.conftest import SAES

from panscope.atlas.notes import Notes
from panscope.events import silent
from panscope.web.app import freeze_run
from panscope.web.pages import N_KEPT

SAE = SAES[0]
API, PAGE = f"/api/sae/{SAE}/feature/9", f"/sae/{SAE}/9"
NAMES = ["../..", "a/b?c#d&e=f", ".", "<b>été 🌧</b>", "x" * 100, "100 %"]


def put(client: TestClient, name: str, index: int = 9, **more: str) -> Any:
    path = f"/api/sae/{SAE}/feature/{index}/lists"
    return client.put(path, json={"list": name, **more})


def say(client: TestClient, text: str, author: str = "Ada") -> Any:
    return client.post(f"{API}/comments", json={"text": text, "author": author})


def told(answer: Any) -> str:
    return str(answer.json()["error"]["message"])


def test_a_feature_is_put_in_a_list_and_taken_out(writable: TestClient) -> None:
    assert writable.get("/api/lists").json() == writable.get(f"{API}/lists").json() == []
    assert put(writable, "months", remark="clear").status_code == 200
    (kept,) = put(writable, " months ", remark="but not May").json()
    assert (kept["list"], kept["remark"], kept["index"]) == ("months", "but not May", 9)
    put(writable, "months", 3)
    assert writable.get("/api/lists").json() == [{"name": "months", "n_features": 2}]
    found = writable.get("/api/list", params={"name": "months", "limit": 1}).json()
    assert (found["name"], found["total"], found["offset"]) == ("months", 2, 0)
    assert [one["index"] for one in found["features"]] == [3]
    assert writable.delete(f"{API}/lists", params={"name": "months"}).json() == []
    for _ in range(2):
        writable.delete(f"/api/sae/{SAE}/feature/3/lists", params={"name": "months"})
    missed = writable.get("/api/list", params={"name": "months"})
    assert missed.status_code == 404 and "no 'months'" in told(missed)


@pytest.mark.parametrize("name", NAMES)
def test_any_name_leads_from_the_feature_to_the_list_and_back(
    writable: TestClient, name: str
) -> None:
    put(writable, name, remark="<i>why</i>")
    html = writable.get(PAGE).text
    (link,) = re.findall(r'href="(/notes\?list=[^"]*)"', html)
    assert "<i>why" not in html and "&lt;i&gt;why" in html
    for path in (link, "/notes"):
        shown = writable.get(unescape(path))
        assert shown.status_code == 200 and "<b>" not in shown.text
    assert f'href="{PAGE}"' in writable.get(unescape(link)).text
    (taken,) = re.findall(r'data-forget="([^"]*lists[^"]*)"', writable.get(unescape(link)).text)
    assert writable.delete(unescape(taken)).json() == []
    put(writable, name)
    (removed,) = re.findall(r'data-forget="(/api/list\?[^"]*)"', writable.get("/notes").text)
    assert writable.delete(unescape(removed)).json() == []
    assert writable.delete(unescape(removed)).status_code == 404


def test_comments_are_written_shown_and_removed(writable: TestClient) -> None:
    assert say(writable, " <b>fires</b> on May\nand June ").json()["text"].startswith("<b>fires")
    say(writable, "it does", "Ben")
    newest, oldest = writable.get(f"{API}/comments").json()
    assert (newest["text"], oldest["author"]) == ("it does", "Ada")
    assert writable.get(f"{API}/comments", params={"limit": 1, "offset": 1}).json() == [oldest]
    for path in (PAGE, "/notes"):
        html = writable.get(path).text
        assert "&lt;b&gt;fires&lt;/b&gt; on May\nand June" in html and "<b>fires" not in html
    path = f"/api/comments/{oldest['id']}"
    assert writable.delete(path).json() == {"removed": oldest["id"]}
    assert writable.delete(path).status_code == writable.delete("/api/comments/-1").status_code
    assert "reload the page" in told(writable.delete(f"/api/comments/{10**30}"))
    assert writable.get(f"{API}/comments").json() == [newest]


def test_a_page_shows_no_more_than_so_many_comments(writable: TestClient, run: Path) -> None:
    with closing(Notes.open(run / "notes.sqlite")) as notes:
        for number in range(N_KEPT + 5):
            notes.comments.add(SAE, 9, f"comment {number}", "Ada")
            notes.lists.put(f"list {number}", SAE, 9)
    html = writable.get(PAGE).text
    assert html.count("data-remove=") == html.count("data-take=") == N_KEPT
    assert f"The last {N_KEPT} comments" in html and f"In {N_KEPT} or more lists" in html
    assert "comment 104<" in html and "comment 4<" not in html


def test_what_is_empty_is_hidden_from_who_only_reads(writable: TestClient) -> None:
    html = writable.get(PAGE).text
    for part in ("lists", "comments"):
        assert re.search(f'<section id="{part}"[^>]* hidden>', html)
    put(writable, "months")
    html = writable.get(PAGE).text
    assert re.search('<section id="comments"[^>]* hidden>', html)
    assert not re.search('<section id="lists"[^>]* hidden>', html)
    forms = html[html.index('<section id="lists"') :].partition('id="logits-title"')[0]
    assert forms.count("<form ") == forms.count('<form class="controls" hidden>') == 2
    embedded = writable.get(PAGE, params={"embed": "true"}).text
    assert 'id="lists"' not in embedded and 'id="comments"' not in embedded


def test_notes_show_lists_and_comments_in_windows(writable: TestClient, run: Path) -> None:
    with closing(Notes.open(run / "notes.sqlite")) as notes:
        for index in range(5):
            notes.lists.put("months", SAE, index, f"remark {index}")
            notes.lists.put(f"list {index}", SAE, index)
            notes.comments.add(SAE, index, f"comment {index}", "Ada")
        notes.comments.add("gone/sae", 1, "of what is gone", "Ben")
        notes.lists.put("gone", "gone/sae", 1, "was good")
    html = writable.get("/notes?limit=2&lists=2&comments=4").text
    assert re.findall(r">(list \d|months|gone)</a>", html) == ["months", "list 3"]
    assert re.findall(r"comment \d|of what is gone", html) == ["comment 1", "comment 0"]
    assert "3 to 4 of 7" in html and "5 to 6 of 6" in html
    html = writable.get(f"/notes?sae={SAE}").text
    assert "comment 4" in html and "of what is gone" not in html
    assert 'href="/sae/gone/sae/1"' not in writable.get("/notes").text
    html = writable.get("/notes?list=months&limit=2&offset=2").text
    assert re.findall(r"remark \d", html) == ["remark 2", "remark 1"] and "3 to 4 of 5" in html
    links = [unescape(link) for link in re.findall(r'href="(/notes\?[^"]*)"', html)]
    assert links == ["/notes?list=months&limit=2", "/notes?list=months&offset=4&limit=2"]
    assert "does not have it any more. was good" in writable.get("/notes?list=gone").text
    assert "no features from here on" in writable.get("/notes?list=months&offset=99").text
    wrong = writable.get("/notes?list=month")
    assert wrong.status_code == 404 and "did you mean months" in wrong.text


def test_an_export_holds_lists_and_comments(writable: TestClient) -> None:
    put(writable, "months", remark="clear")
    say(writable, "it fires on May")
    found = writable.get("/api/notes").json()
    (one,) = found["lists"]
    assert one["name"] == "months" and one["features"][0]["remark"] == "clear"
    assert found["comments"][0]["text"] == "it fires on May"
    assert found["bookmarks"] == found["edits"] == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"list": " "}, "the name of a list: is empty"),
        ({"list": "x" * 101}, "100"),
        ({"list": "a\0"}, "holds a character that is none"),
        ({"list": "a", "remark": "x" * 501}, "500"),
        ({"list": "a", "more": 1}, "more"),
        ({}, "list"),
    ],
)
def test_what_is_no_list_is_refused(writable: TestClient, body: Any, words: str) -> None:
    answer = writable.put(f"{API}/lists", json=body)
    assert answer.status_code == 422 and words in told(answer)
    assert writable.get("/api/lists").json() == []


@pytest.mark.parametrize(
    ("text", "author", "words"),
    [
        (" \n", "Ada", "a comment: is empty"),
        ("x" * 5_001, "Ada", "5000"),
        ("fine", " ", "a comment's author: is empty"),
        ("fine", "x" * 201, "200"),
    ],
)
def test_what_is_no_comment_is_refused(
    writable: TestClient, text: str, author: str, words: str
) -> None:
    answer = say(writable, text, author)
    assert answer.status_code == 422 and words in told(answer)
    assert writable.get(f"{API}/comments").json() == []


def test_only_features_that_are_there_are_written_of(writable: TestClient) -> None:
    for path in (f"/api/sae/{SAE}/feature/64", f"/api/sae/{SAE}x/feature/0"):
        for answer in (
            writable.get(f"{path}/lists"),
            writable.put(f"{path}/lists", json={"list": "a"}),
            writable.get(f"{path}/comments"),
            writable.post(f"{path}/comments", json={"text": "a", "author": "b"}),
        ):
            assert answer.status_code == 404


def test_a_feature_that_is_gone_leaves_its_list(writable: TestClient, run: Path) -> None:
    with closing(Notes.open(run / "notes.sqlite")) as notes:
        notes.lists.put("months", "gone/sae", 1)
    path = "/api/sae/gone/sae/feature/1/lists"
    assert writable.delete(path, params={"name": "months"}).json() == []


def test_nobody_writes_without_the_token(writable: TestClient, client: TestClient) -> None:
    writable.headers["authorization"] = "Bearer x"
    for one, status in ((writable, 401), (client, 403)):
        for answer in (
            put(one, "months"),
            say(one, "clear"),
            one.delete(f"{API}/lists", params={"name": "months"}),
            one.delete("/api/list", params={"name": "months"}),
            one.delete("/api/comments/1"),
        ):
            assert answer.status_code == status
    assert client.get("/api/lists").json() == client.get(f"{API}/comments").json() == []


def test_notes_of_format_3_are_shown_and_written_by_one_server(
    writable: TestClient, run: Path
) -> None:
    path = run / "notes.sqlite"
    made_by(3, path)
    before = path.read_bytes()
    for page in (PAGE, "/notes", "/api/notes", f"{API}/lists", f"{API}/comments"):
        assert writable.get(page).status_code == 200
    assert path.read_bytes() == before
    assert put(writable, "months").status_code == 200
    assert "In 1 list<" in writable.get(PAGE).text


def test_neuronpedias_feature_has_its_lists_and_comments(writable: TestClient) -> None:
    put(writable, "months", remark="clear")
    say(writable, "it fires on May")
    found = writable.get("/api/feature/pocket/0-attn_z-w64_l0_30_s0/9").json()
    keys = {"modelId": "pocket", "layer": "0-attn_z-w64_l0_30_s0", "index": "9"}
    (listed,), (said,) = found["lists"], found["comments"]
    assert keys.items() <= listed.items() and keys.items() <= said.items()
    assert (listed["list"]["name"], listed["description"]) == ("months", "clear")
    assert (said["text"], said["user"], said["id"]) == ("it fires on May", {"name": "Ada"}, "1")


def test_a_frozen_copy_has_a_page_for_each_list(writable: TestClient, run: Path, tmp_path: Path):
    for name in NAMES:
        put(writable, name, 0, remark="kept")
        put(writable, name, 40)
    writable.post(f"/api/sae/{SAE}/feature/0/comments", json={"text": "odd", "author": "Ada"})
    freeze_run(run, tmp_path / "copy", 2, silent)
    page = tmp_path / f"copy/sae/{SAE}/0.html"
    links = re.findall(r'href="([^"]*notes/\d+/index.html)\?list=', page.read_text())
    files = {(page.parent / link).resolve() for link in links}
    assert len(files) == len(NAMES) and all(file.is_file() for file in files)
    html = (tmp_path / "copy/notes/1/index.html").read_text()
    assert f'href="../../sae/{SAE}/0.html"' in html and f"{SAE}/40.html" not in html
    assert "kept" in html and "odd" in page.read_text()
    assert "odd" in (tmp_path / "copy/notes/index.html").read_text()
