"""Edits as data: what is one, what is refused and with which words, multiples of a maximum."""

import json

import pytest

from panscope.edits import Edit, in_raw_units, parse, refuse_unknown
from panscope.errors import ConfigError, NotFound

SAE = "resid_post.1/w16"


def edit(**keys: object) -> Edit:
    return Edit.parse({"sae": SAE, "index": 3, **keys}, "edit")


@pytest.mark.parametrize(
    "keys",
    [
        {"value": 2},
        {"action": "set", "value": -1.5, "unit": "max", "at": "generated"},
        {"action": "zero", "at": [0, 3, -1], "specials": True},
        {"action": "clamp", "high": 4.0},
        {"action": "patch", "source": "Another text."},
        {"sae": None, "index": None, "site": "resid_post.1", "direction": [0, 1], "value": 1.0},
        {"sae": None, "index": None, "site": "embed", "along": f"{SAE}:3", "action": "zero"},
        {"sae": None, "index": None, "site": "embed", "toward": "a", "away": "b", "value": -1.0},
    ],
)
def test_an_edit_survives_json(keys: dict[str, object]):
    one = edit(**keys)
    assert Edit.parse(json.loads(one.model_dump_json()), "edit") == one
    assert hash(one) == hash(edit(**keys))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"action": "ad", "value": 1}, "'add', 'set'"),
        ({"actoin": "add"}, "did you mean action"),
        ({}, "add needs value"),
        ({"action": "zero", "value": 1}, "zero takes no value"),
        ({"action": "clamp"}, "clamp needs low or high"),
        ({"action": "clamp", "low": 2, "high": 1}, "low 2 is above high 1"),
        ({"action": "scale", "value": 2, "unit": "max"}, "multiples of the maximum"),
        ({"value": 1, "site": "embed"}, "give sae and index, or site with direction, along"),
        ({"value": 1, "index": None}, "give sae and index, or site with direction, along"),
        ({"value": 1, "toward": "a", "away": "b"}, "give sae and index, or site with direction"),
        ({"value": 1, "along": "w16"}, "along is 'w16'"),
        ({"value": 1e31}, "less than or equal to 1000"),
        ({"value": float("nan")}, "value"),
        ({"value": 1, "at": "prmpt"}, "at is 'prmpt'; input should be 'all', 'prompt'"),
        ({"value": 1, "at": []}, "at names no position"),
        ({"value": 1, "index": -1}, "greater than or equal to 0"),
    ],
)
def test_what_is_no_edit_is_refused(keys: dict[str, object], words: str):
    with pytest.raises(ConfigError, match="edit: ") as refused:
        edit(**keys)
    assert words in str(refused.value)


def test_a_direction_needs_a_length_and_a_site_that_exists():
    place = {"sae": None, "index": None, "value": 1.0}
    with pytest.raises(ConfigError, match="edit: cannot be used; the direction has no length"):
        edit(**place, site="resid_post.1", direction=[0.0, 0.0])
    with pytest.raises(NotFound, match="did you mean resid_post"):
        edit(**place, site="resid_pots.1", direction=[0.0, 1.0])


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(NotFound, match=r"did you mean resid_post\.1/w16"):
        refuse_unknown([parse("resid_pst.1/w16:3+1")], {SAE: 16})
    with pytest.raises(NotFound, match="no feature 16; give an index from 0 to 15"):
        refuse_unknown([parse(f"{SAE}:16+1")], {SAE: 16})
    along = Edit(action="zero", site="embed", along=f"{SAE}:16")
    with pytest.raises(NotFound, match="no feature 16; give an index from 0 to 15"):
        refuse_unknown([along], {SAE: 16})


@pytest.mark.parametrize("text", ["", "a:1", "a:*2", "a:x*2", ":3*2", "a:1*", "a:-1=0", "3*2"])
def test_what_is_not_typed_as_an_edit_is_refused(text: str):
    with pytest.raises(ConfigError, match="write SAE:INDEX"):
        parse(text)


def test_multiples_become_numbers():
    edits = (edit(value=3, unit="max"), edit(action="clamp", low=-1, unit="max"), edit(value=3))
    added, clamped, raw = in_raw_units(edits, lambda sae, index: 2.5)
    assert (added.value, added.unit) == (7.5, "raw")
    assert (clamped.low, clamped.high) == (-2.5, None)
    assert raw is edits[2]
    with pytest.raises(ConfigError, match="never fired"):
        in_raw_units(edits, lambda sae, index: 0.0)
    with pytest.raises(
        ConfigError, match=r"is over 1e\+30 in the model's units; give a smaller multiple"
    ):
        in_raw_units([edit(value=1e30, unit="max")], lambda sae, index: 2.5)
