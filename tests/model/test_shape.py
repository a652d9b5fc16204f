"""Shapes: measured, read from a configuration without weights, stated, and compared."""

from pathlib import Path

import pytest

from panscope.errors import ConfigError, NotFound, Unsupported
from panscope.model import load
from panscope.model.load import Config, Model, read_outline, read_shape
from panscope.model.shape import Shape, shape_of
from panscope.sites import Site, all_sites


def test_the_shape_of_a_configuration_is_that_of_the_model(tiny_model: Model, tmp_path: Path):
    """A folder with nothing but a configuration is enough."""
    (tmp_path / "config.json").write_bytes(Path(tiny_model.name, "config.json").read_bytes())
    shape = read_shape(Config(name=str(tmp_path)))
    assert shape == shape_of(tiny_model.lm, tiny_model.family)
    assert shape.n_parameters == sum(p.numel() for p in tiny_model.lm.parameters())
    assert (shape.n_layers, shape.d_model, shape.d_attn, shape.n_vocab) == (3, 32, 32, 4096)
    for site in all_sites(tiny_model.n_layers):
        assert shape.d_at(site) == tiny_model.d_at(site)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("model.layers.0.mlp.gate_proj.output", "its size is not known without the model"),
        ("q.0", "has no vector for each token"),
        ("attn_pattern.0", "has no vector for each token"),
    ],
)
def test_a_size_that_a_shape_does_not_tell_is_not_guessed(name: str, found: str):
    with pytest.raises(Unsupported, match=found):
        read_shape(Config()).d_at(Site.parse(name))


def test_an_outline_measures_what_its_modules_return(folder: Path):
    """In every architecture, without a weight."""
    outline = read_outline(Config(name=str(folder)))
    mlp = [
        (name, module.weight.shape)
        for name, module in outline.lm.named_modules()
        if name.startswith(f"{outline.family.layers}.1.mlp.")
        and getattr(module, "weight", None) is not None
    ]
    assert len(mlp) > 1
    for name, shape in mlp:
        (site,) = outline.sites([f"{name}.output"])
        assert outline.d_at(site) in shape
        (site,) = outline.sites([f"{name}.input"])
        assert outline.d_at(site) in shape


def test_the_packaged_model_has_a_shape():
    assert read_shape(Config()).n_parameters == 4_985_088


def test_a_stated_shape_needs_no_model():
    stated = read_shape(Config()).model_copy(update={"n_layers": 99})
    assert read_shape(Config(name="owner/elsewhere", shape=stated)) == stated
    with pytest.raises(NotFound, match="owner/elsewhere"):
        read_shape(Config(name="owner/elsewhere"))


@pytest.mark.parametrize("key", Shape.model_fields)
def test_a_model_of_another_shape_is_refused(tiny_model: Model, key: str):
    true = shape_of(tiny_model.lm, tiny_model.family)
    assert load.load(Config(name=tiny_model.name, device="cpu", shape=true)).n_layers == 3
    wrong = true.model_copy(update={key: 7})
    with pytest.raises(ConfigError, match=rf"its {key} is .*, the recipe says 7; correct \[model"):
        load.load(Config(name=tiny_model.name, device="cpu", shape=wrong))
