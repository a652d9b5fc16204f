import json
import lzma
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import Gemma2Config, Gemma2ForCausalLM

import card
import measure
import shipped
from panscope.errors import NotFound


@given(length=st.integers(1, 200), half=st.integers(2, 16))
def test_windows_score_every_id_once_and_look_back_half_a_context(length: int, half: int):
    ids, context, scored = list(range(10, 10 + length)), 2 * half, []
    for row, n_new in measure.windows(ids, context):
        assert row[0] == 2
        assert len(row) <= context
        assert n_new == len(row) - 1 or len(row) - n_new >= half
        scored += row[len(row) - n_new :]
    assert scored == ids


def text_of(ids: list[int]) -> measure.Text:
    return measure.Text("story", b"x" * len(ids), ids)


def test_a_model_that_knows_nothing_needs_every_bit(tiny: Gemma2Config):
    model = Gemma2ForCausalLM(tiny).eval()
    torch.nn.init.zeros_(model.lm_head.weight)
    texts = [text_of([5] * length) for length in (1, 31, 32, 100)]
    bits = measure.model_bits(model, texts)
    np.testing.assert_allclose(bits, np.array([1, 31, 32, 100]) * math.log2(tiny.vocab_size))


def test_a_short_text_costs_its_cross_entropy(tiny: Gemma2Config):
    model = Gemma2ForCausalLM(tiny).eval()
    ids = torch.randint(3, tiny.vocab_size, (1, 20), generator=torch.Generator().manual_seed(0))
    behind_bos = torch.cat([torch.full((1, 1), 2), ids], dim=1)
    with torch.no_grad():
        logits = model(behind_bos).logits[0, :-1]
    expected = cross_entropy(logits, ids[0], reduction="sum").item() / math.log(2)
    texts = [text_of([9] * 70), text_of(ids[0].tolist())]
    assert measure.model_bits(model, texts)[1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("length", [0, 10, 20_000])
def test_a_smaller_dictionary_compresses_as_well(length: int):
    data = np.random.default_rng(0).choice(list(b"abcdefg"), length).astype(np.uint8).tobytes()
    assert len(measure.xz_9(data)) == len(lzma.compress(data, preset=9))


@pytest.fixture
def measured(corpus, tokenizer, tiny, page, tmp_path, monkeypatch):
    """Run the script on a tiny model; its JSON and the card it filled in."""
    shipped.write(Gemma2ForCausalLM(tiny), tokenizer, tmp_path / "model")
    args = [tmp_path / "model", corpus, "--train-tokens", 300, "--card", page]
    monkeypatch.setattr(sys, "argv", ["measure.py", *map(str, args)])
    measure.main()
    return json.loads((tmp_path / "measured.json").read_bytes()), page.read_text()


def test_it_runs_from_end_to_end(measured, capsys):
    tree, page = measured
    *kinds, total = tree["lines"]
    assert [line["kind"] for line in kinds] == ["dialogue", "german", "story"]
    assert total["kind"] == "all"
    assert total["n_bytes"] == sum(line["n_bytes"] for line in kinds)
    for name in ("pocket", "5-gram"):
        bits = sum(line["bits"][name] * line["n_bytes"] for line in kinds)
        assert total["bits"][name] * total["n_bytes"] == pytest.approx(bits)
    assert total["bits"]["5-gram"] < total["bits"]["pocket"]  # fitted to these very sentences
    assert tree["ngram_tokens"] == 300
    assert tree["alone"]["gzip -9"] > total["bits"]["gzip -9"]
    assert "run `measure.py" not in page.split("To make it again")[0]
    assert f"| all | 6 | {total['n_bytes']} | {total['bits']['pocket']:.3f} |" in page
    assert "| german (not stated) | 20 | 0.0 |" in page
    assert "| sliding window, context | 8, 32 |" in page


def test_a_folder_without_validation_text_is_refused(tmp_path):
    with pytest.raises(NotFound) as caught:
        measure.measure(tmp_path, tmp_path, 100)
    found = "holds no valid.jsonl.gz; give a folder as corpus.py describes it"
    assert str(caught.value) == f"{tmp_path}: {found}"


def test_a_block_of_the_card_is_replaced_and_the_rest_left_alone(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- /a -->\nafter\n")
    card.insert(page, "a", "new é\n")
    card.insert(page, "a", "new é\n")
    assert page.read_text("utf-8") == "before\n<!-- a -->\nnew é\n<!-- /a -->\nafter\n"


def test_a_card_without_the_block_is_refused(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("<!-- a --> no end")
    with pytest.raises(NotFound) as caught:
        card.insert(page, "a", "new")
    assert str(caught.value) == (
        f"{page}: has no block <!-- a --> ... <!-- /a -->; put the two comments back"
    )
    assert page.read_text() == "<!-- a --> no end"
