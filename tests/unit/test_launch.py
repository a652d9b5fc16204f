from pathlib import Path

import pytest

from panscope.errors import NotFound
from panscope.launch import anywhere
from panscope.model.load import Config
from panscope.recipe import packaged_recipes, read_recipe
from panscope.stages.train import sweep


def test_every_packaged_recipe_can_be_read():
    assert "demo" in packaged_recipes()
    for name in packaged_recipes():
        assert sweep.specs(read_recipe(name).train, n_layers=42)


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
