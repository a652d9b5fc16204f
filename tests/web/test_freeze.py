"""Frozen copies: every link leads to a file, what needs a server is left out, and says so."""

import json
import os
import re
import shutil
import signal
from contextlib import closing
from pathlib import Path

import pytest
from tests.web.conftest import SAES
from tests.web.fixture_run import HOSTILE, SITES, build, build_notes

from panscope.atlas.labels import Label, Score
from panscope.atlas.notes import Notes
from panscope.errors import ConfigError
from panscope.events import Advanced, Event, Finished, Started, silent
from panscope.web import pages
from panscope.web.app import freeze_run
from panscope.web.bundle import bundle
from panscope.web.freeze_plan import PAGES, Plan
from panscope.web.frozen import LIVE
from panscope.web.run import RunFolder

N = 6


@pytest.fixture(scope="module")
def copy(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("frozen") / "copy"
    freeze_run(run_folder, out, N, silent)
    return out


def test_the_number_of_files_is_what_was_said(run_folder: Path, tmp_path: Path) -> None:
    said: list[Event] = []
    n_pages = freeze_run(run_folder, tmp_path / "copy", N, said.append)
    least = len(SAES) * (N + 1) + len(PAGES) + len(pages.SEARCHES) + 1
    assert (
        least <= n_pages <= least + 3
    )  # the features of three puzzles, where they are not of the N
    assert n_pages == len(list((tmp_path / "copy").rglob("*.html")))
    assert said[0] == Started("freeze", n_pages, "pages")
    assert [event.done for event in said if isinstance(event, Advanced)] == list(
        range(1, n_pages + 1)
    )
    assert isinstance(said[-1], Finished)


def test_every_link_leads_to_a_file_of_the_copy(copy: Path) -> None:
    for page in copy.rglob("*.html"):
        html = page.read_text()
        for link in re.findall(r'(?:href|src|action)="([^"]*)"', html):
            if link and not link.startswith("#"):
                target = (page.parent / re.split("[?#]", link)[0]).resolve()
                assert target.is_file(), (page, link)
                assert target.is_relative_to(copy)
        root = re.search(r'<html data-root="([^"]*)" data-frozen', html)
        assert (page.parent / root[1]).resolve() == copy


def test_a_copy_says_what_it_leaves_out(copy: Path, run_folder: Path) -> None:
    plan = Plan(RunFolder(run_folder, None), N)
    for page in copy.rglob("*.html"):
        html = page.read_text()
        assert "A frozen copy" in html
        assert "panscope serve" in html
        assert 'type="module"' not in html
    for path, what in LIVE.items():
        if not path.startswith("/search") or path.partition("=")[2] in pages.SEARCHES:
            assert what in (copy / plan.name_of(path)).read_text()
    assert "neither model nor server" not in (copy / "search/numbers/index.html").read_text()


def test_features_of_heads_show_them(copy: Path) -> None:
    assert 'id="heads-title">Head ' in (copy / "sae" / SAES[0] / "0.html").read_text()
    assert "heads-title" not in (copy / "sae" / SAES[2] / "0.html").read_text()


def test_lists_hold_the_features_that_are_copied(copy: Path) -> None:
    for sae in SAES:
        html = (copy / "sae" / sae / "index.html").read_text()
        listed = json.loads(re.search(r'id="rows">(.*?)</script>', html, re.S)[1])
        indices = [hit["row"]["index"] for hit in listed["hits"]]
        assert indices[:6] == [0, 1, 2, 3, 4, 6]  # 5 is dead
        assert all((copy / "sae" / sae / f"{index}.html").is_file() for index in indices)
        assert HOSTILE not in html


def test_what_scores_were_judged_on_is_copied(tmp_path: Path) -> None:
    run, sae = build(tmp_path / "run", SITES[:1]), SAES[0]
    details = json.dumps([{"context": 3, "start": 1, "tokens": 8, "true": False, "told": False}])
    with closing(Notes.open(run / "notes.sqlite")) as notes:
        score = Score("detection", 1.0, 0.5, 1, details=details)
        label = notes.add(Label(sae, 0, "months", "rules", "rules", scores=(score,)))
    freeze_run(run, tmp_path / "copy", 1, silent)
    html = (tmp_path / f"copy/sae/{sae}/0.html").read_text()
    answers = json.loads(re.search(r'id="answers">(.*?)</script>', html, re.S)[1])
    copied = answers[f"/api/sae/{sae}/feature/0/labels/{label.id}"]["scores"][0]
    assert (copied["scorer"], copied["n"]) == ("detection", 1)


def test_a_stopped_copy_goes_on_and_keeps_what_is_there(
    run_folder: Path, tmp_path: Path, copy: Path
) -> None:
    out = tmp_path / "copy"

    def stop(event: Event) -> None:
        if isinstance(event, Advanced) and event.done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        freeze_run(run_folder, out, N, stop)
    assert not (out / "index.html").exists()
    kept = out / "sae" / SAES[0] / "0.html"
    kept.write_text("kept")
    (kept.parent / ".1.html.4711.tmp").write_text("half a page, of a killed writer")
    freeze_run(run_folder, out, N, silent)
    assert kept.read_text() == "kept"
    ours, whole = ({p.relative_to(top) for p in top.rglob("*")} for top in (out, copy))
    assert ours == whole


def test_a_copy_that_ctrl_c_ends_is_not_told_of_a_page_that_failed(
    run_folder: Path, tmp_path: Path
) -> None:
    def emit(event: Event) -> None:
        if isinstance(event, Advanced) and event.done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            freeze_run(run_folder, tmp_path / "copy", 2, emit)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "copy" / "index.html").exists()


def test_a_copy_is_made_anew_once_the_run_has_other_labels(
    run_folder: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run")
    page = tmp_path / "copy/sae" / SAES[0] / "0.html"
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/.frozen.json.4711.tmp").write_text("half of the first file, before a kill")
    freeze_run(run, tmp_path / "copy", 1, silent)
    assert "quite new" not in page.read_text()
    build_notes(run, SAES)
    with closing(Notes.open(run / "notes.sqlite")) as notes:
        notes.add(Label(SAES[0], 0, "quite new", "Ada"))
    freeze_run(run, tmp_path / "copy", 1, silent)
    assert "quite new" in page.read_text()


def test_another_folder_is_not_written_into(run_folder: Path, tmp_path: Path, copy: Path) -> None:
    with pytest.raises(ConfigError, match="holds a copy of another atlas, or of other features"):
        freeze_run(run_folder, copy, N + 1, silent)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty; choose another folder"):
        freeze_run(run_folder, tmp_path, N, silent)


def test_bundles_hold_no_module_syntax(tmp_path: Path) -> None:
    static = pages.HERE / "static"
    for script in static.glob("*.js"):
        text = bundle(static, [script.name])
        module_syntax = r"^(import|export)\b|^(?=\S)(?!.*\basync\b).*\bawait\b"
        assert not re.search(module_syntax, text, re.M), script.name
        assert text.count(f'modules["{script.name}"] = ') == 1


def test_a_bundle_takes_imports_once_and_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text('import { x as y } from "./b.js";\nimport "./c.js";\nsay(y);\n')
    (tmp_path / "b.js").write_text('import { z } from "./c.js";\nexport const x = z;\n')
    (tmp_path / "c.js").write_text("export function z() {}\n")
    (tmp_path / "d.js").write_text("export const z = 1;\n")
    text = bundle(tmp_path, ["a.js"], {"c.js": "d.js"})
    assert re.findall(r'^modules\["(\w)', text, re.M) == ["d", "b", "a"]
    assert 'const { x: y } = modules["b.js"];' in text
    assert 'const { z } = modules["d.js"];' in text
    assert "return { x };" in text
