import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2ForCausalLM

import shipped
import train
from corpus import BOS_ID, token_row
from panscope.errors import NotFound

# Four steps, of which the last is on rows of the long context.
SMALL = {"batch_tokens": 64, "short_context": 16, "long_context": 32, "warmup_steps": 1}
RECIPE = train.Recipe(tokens=256, **SMALL)


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: model)
    monkeypatch.setattr(train, "REPORT_STEPS", 1)


def test_rows_begin_with_bos_and_follow_from_the_seed_and_the_place():
    row = np.arange(100, 400, dtype=np.uint16)
    ids = train.rows_at(row, seen=64, n_rows=4, context=16, recipe=RECIPE)
    assert (ids[:, 0] == BOS_ID).all()
    assert (ids[:, 2:] - ids[:, 1:-1] == 1).all()
    assert ids.equal(train.rows_at(row, 64, 4, 16, RECIPE))
    assert not ids.equal(train.rows_at(row, 128, 4, 16, RECIPE))


def test_the_learning_rate_rises_stays_and_falls_to_nothing():
    recipe = train.Recipe(tokens=1_000_000, batch_tokens=1000)
    seen = (0, 49_000, 99_000, 499_999, 750_000, 1_000_000)
    scales = [recipe.lr_scale_at(tokens) for tokens in seen]
    assert scales == pytest.approx([0.01, 0.5, 1, 1, 0.5, 0])


def test_a_killed_run_resumes_to_the_weights_of_a_whole_one(
    corpus, tokenizer, tiny, tmp_path, monkeypatch
):
    row = token_row(corpus, "train", tokenizer)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    expected = train.train(row, whole, RECIPE, tiny).state_dict()

    report = train.report

    def report_and_die(out: Path, seen: int, *rest: object) -> None:
        if seen == 3 * RECIPE.batch_tokens:
            raise KeyboardInterrupt
        report(out, seen, *rest)

    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", -1)
    monkeypatch.setattr(train, "report", report_and_die)
    with pytest.raises(KeyboardInterrupt):
        train.train(row, killed, RECIPE, tiny)
    monkeypatch.setattr(train, "report", report)
    resumed = train.train(row, killed, RECIPE, tiny).state_dict()

    assert all(resumed[name].equal(weights) for name, weights in expected.items())
    begun = train.begin(tiny, RECIPE, "cpu").model.state_dict()
    assert not any(begun[name].equal(weights) for name, weights in expected.items())
    lines = (killed / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["seen_tokens"] for line in lines] == [64, 128, 192, 256]


def test_training_lowers_the_loss(corpus, tokenizer, tiny, tmp_path):
    row = token_row(corpus, "train", tokenizer)
    tiny.initializer_range = 0.02
    train.train(row, tmp_path, train.Recipe(tokens=64 * 40, **SMALL), tiny)
    bits = [json.loads(line)["bits"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert np.mean(bits[-5:]) < np.mean(bits[:5]) - 1


def test_what_ships_loads_again(tokenizer, tiny, tmp_path):
    model = Gemma2ForCausalLM(tiny)
    shipped.write(model, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).state_dict()
    assert all(loaded[name].equal(weights) for name, weights in model.state_dict().items())
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert (again.pad_token_id, again.eos_token_id, again.bos_token_id) == (0, 1, 2)
    assert again("The cat, 42.")["input_ids"] == tokenizer.encode("The cat, 42.").ids
    read, _ = shipped.read(tmp_path)
    assert read.dtype == torch.float32
    assert read.config._attn_implementation == "eager"


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(NotFound) as caught:
        shipped.read(tmp_path)
    found = "holds no config.json; give the folder that train.py wrote"
    assert str(caught.value) == f"{tmp_path}: {found}"
