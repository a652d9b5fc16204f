import json
import lzma
import sys

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

import sample
import shipped
from panscope.errors import PanscopeError


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_kept_keys_and_values_change_nothing(tiny: Gemma2Config):
    model = Gemma2ForCausalLM(tiny).eval()
    rows = sample.written_rows(model, 3, 1e-6, generator())
    with torch.no_grad():
        scores = model(rows, use_cache=False).logits[:, :-1]
    assert rows.shape == (3, tiny.max_position_embeddings)
    assert rows[:, 1:].equal(scores[:, :, 2:].argmax(-1) + 2)


def test_a_row_is_cut_where_bos_stands(tokenizer):
    row = [2, *tokenizer.encode("the cat").ids, 2, *tokenizer.encode("User: Hi\n").ids[1:]]
    assert list(sample.documents_of(row, tokenizer)) == [
        {"text": "the cat", "kind": "sampled"},
        {"text": "User: Hi", "kind": "dialogue"},
    ]


def test_half_a_character_at_the_end_is_left_off(tokenizer):
    ids = tokenizer.encode("ok \N{SNOWMAN}").ids
    (document,) = sample.documents_of(ids[:-1], tokenizer)
    assert document["text"] == "ok"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("User: Is it far?\nAssistant: Ten miles.", "dialogue"),
        ("English: Go.\nSpanish: Ve.", "translation"),
        ("Question: What is 2 + 2?\nAnswer: 4\n\nQuestion: What is 3 + 3?\nAnswer: 6", "math"),
        ("Question: " + "Tom has some apples and eats one. " * 9 + "\nAnswer: 2", "math-word"),
        ("Population: 3 (2025 est.)\nArea: small\nCapital: Oz\n", "factbook"),
        ("Die Katze und der Hund sind nicht groß, sie sind das.", "german"),
        ("Il est dans le jardin et je ne le vois pas.", "french"),
        ("El perro y las casas del pueblo en el valle.", "spanish"),
        ("The cat sat on the mat.", "sampled"),
        ("", "sampled"),
    ],
)
def test_kinds_are_told_by_their_marks(text: str, kind: str):
    assert sample.kind_of(text) == kind


def test_what_is_too_large_to_ship_is_refused(monkeypatch):
    monkeypatch.setattr(sample, "MOST_BYTES", 10)
    with pytest.raises(PanscopeError, match=r"at most 10 ship; sample fewer --tokens$"):
        sample.packed([{"text": "a", "kind": "sampled"}])


def run(monkeypatch, *args: object) -> None:
    monkeypatch.setattr(sys, "argv", ["sample.py", *(str(arg) for arg in args)])
    sample.main()


def test_it_runs_from_end_to_end_and_the_seed_decides(tokenizer, tiny, page, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "BATCH_ROWS", 4)
    model = tmp_path / "model"
    shipped.write(Gemma2ForCausalLM(tiny), tokenizer, model)
    outs = [tmp_path / f"{name}.jsonl.xz" for name in "abc"]
    for out, seed in zip(outs, (0, 0, 1), strict=True):
        run(monkeypatch, model, out, "--tokens", 100, "--seed", seed, "--card", page)
    lines = lzma.decompress(outs[0].read_bytes()).decode().splitlines()
    documents = [json.loads(line) for line in lines]
    assert len(documents) >= sample.BATCH_ROWS
    assert all(document.keys() == {"text", "kind"} for document in documents)
    assert outs[0].read_bytes() == outs[1].read_bytes() != outs[2].read_bytes()
    assert "```text" in page.read_text().partition("<!-- samples -->")[2]


def test_a_missing_model_is_one_sentence(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, tmp_path / "none", tmp_path / "out.jsonl.xz")
    assert caught.value.code == 3
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'none'}: holds no config.json;")
    assert not (tmp_path / "out.jsonl.xz").exists()
