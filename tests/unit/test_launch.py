import os
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from panscope.config import packaged_recipes
from panscope.errors import NotFound
from panscope.launch import anywhere, record
from panscope.model.load import Config
from panscope.recipe import Recipe, read_recipe
from panscope.stages.train import sweep
from panscope.stages.train.objective import ArchitectureName


def test_every_packaged_recipe_can_be_read():
    assert "demo" in packaged_recipes()
    for name in packaged_recipes():
        assert sweep.specs(read_recipe(name).train, n_layers=42)


def test_a_runs_recipe_is_read_back_as_it_was_written(tmp_path: Path):
    priced = [{"architecture": name, "sparsity": [1.0]} for name in ("jumprelu", "relu", "gated")]
    revived = {"target_l0": [3], "revive": {"aux_k": 4}, "more": priced}
    trains = [*priced, *({"architecture": name, **revived} for name in ("topk", "batch_topk"))]
    assert {train["architecture"] for train in trains} == set(get_args(ArchitectureName))
    asked = [Recipe.parse({"train": train}, "test") for train in trains]
    for recipe in (*asked, *map(read_recipe, packaged_recipes())):
        record(recipe, tmp_path)
        again = read_recipe(str(tmp_path / "recipe.json"))
        assert (again, again.digest()) == (recipe, recipe.digest())


def test_what_killed_commands_left_half_done_is_gone_once_a_command_is_done(tmp_path: Path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / "answers/3f").mkdir(parents=True)
    names = (".report.md", "answers/3f/.3f00.json")
    dead, living = ([tmp_path / f"{n}.{p}.tmp" for n in names] for p in (ended.pid, os.getppid()))
    mine = tmp_path / ".notes.tmp"
    for path in (*dead, *living, mine):
        path.touch()
    record(read_recipe("demo"), tmp_path)
    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in (*living, mine))


def test_an_unknown_recipe_is_answered_with_the_nearest():
    with pytest.raises(NotFound, match="did you mean demo"):
        read_recipe("dmeo")


def test_a_local_model_is_named_by_its_full_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "pocket"):
        (tmp_path / name).mkdir()
    assert anywhere(Config(name="mine")).name == str(tmp_path / "mine")
    assert anywhere(Config(name="pocket")).name == "pocket", "the package's, whatever lies here"
    assert anywhere(Config(name="google/gemma-2-2b")).name == "google/gemma-2-2b"
