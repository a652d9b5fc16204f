from pathlib import Path

import pytest

from panscope.config import Config, override, read_tree
from panscope.errors import ConfigError, NotFound


class Inner(Config):
    width: int = 8
    rate: float = 0.1


class Outer(Config):
    name: str
    inner: Inner = Inner()
    sites: tuple[str, ...] = ()


def test_arrays_become_tuples_and_the_result_is_hashable():
    parsed = Outer.parse({"name": "a", "sites": ["x", "y"]}, "r.toml")
    assert parsed.sites == ("x", "y")
    assert hash(parsed) == hash(Outer(name="a", sites=("x", "y")))


def test_the_digest_names_the_values_and_not_their_order():
    one = Outer.parse({"name": "a", "sites": ["x"]}, "r.toml")
    two = Outer.parse({"sites": ["x"], "name": "a"}, "r.toml")
    assert one.digest() == two.digest() != Outer(name="b").digest()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"name": "a", "inner": {"widht": 3}},
            "r.toml: unknown key inner.widht; did you mean width?",
        ),
        ({"name": "a", "zzz": 1}, "r.toml: unknown key zzz; known: name, inner, sites"),
        ({}, "r.toml: name is missing; add it"),
        (
            {"name": "a", "inner": {"width": "8"}},
            "r.toml: inner.width is '8'; input should be a valid integer",
        ),
        (
            {"name": "a", "inner": {"width": True}},
            "r.toml: inner.width is True; input should be a valid integer",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tree: dict[str, object], message: str):
    with pytest.raises(ConfigError) as caught:
        Outer.parse(tree, "r.toml")
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


class Several(Config):
    parts: tuple[Inner, ...] = ()
    perhaps: Inner | None = None


@pytest.mark.parametrize("tree", [{"parts": [{}, {"widht": 3}]}, {"perhaps": {"widht": 3}}])
def test_keys_in_lists_and_options_are_known(tree: dict[str, object]):
    with pytest.raises(ConfigError, match=r"widht; did you mean width\?"):
        Several.parse(tree, "r.toml")


def test_overrides_reach_into_sections_and_leave_the_tree_alone():
    tree = {"inner": {"width": 8}}
    changed = override(tree, ("inner.width=16", "name=plain text", 'sites=["a"]'))
    assert changed == {"inner": {"width": 16}, "name": "plain text", "sites": ["a"]}
    assert tree == {"inner": {"width": 8}}


@pytest.mark.parametrize("bad", ["width", "=3", "inner.width.deep=1"])
def test_a_malformed_override_is_refused(bad: str):
    with pytest.raises(ConfigError, match=r"override|is a value"):
        override({"inner": {"width": 8}}, (bad,))


def test_a_recipe_that_is_missing_or_unreadable_is_named(tmp_path: Path):
    with pytest.raises(NotFound, match=r"no\.toml: no such file"):
        read_tree(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(ConfigError, match=r"bad\.toml: is not TOML"):
        read_tree(tmp_path / "bad.toml")
    (tmp_path / "bad.toml").write_bytes(b"a = 1 # caf\xe9")
    with pytest.raises(ConfigError, match=r"bad\.toml: is not UTF-8 at byte 11; convert"):
        read_tree(tmp_path / "bad.toml")
    for text, found in (("{", "is not JSON"), ("[1]", "is not a JSON object")):
        (tmp_path / "recipe.json").write_text(text)
        with pytest.raises(ConfigError, match=rf"recipe\.json: {found}"):
            read_tree(tmp_path / "recipe.json")
