"""Text: rows that join to the tokens, skip exactly, split cleanly; a sentence for each bad file."""

import gzip
import json
import lzma
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panscope.errors import ConfigError, Corrupt, NotFound, PanscopeError, Unsupported
from panscope.model import text
from panscope.model.documents import Document, documents
from panscope.model.folder import pocket_file
from panscope.model.load import Model
from panscope.model.text import Config, Rows

shared_files = settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def documents_of(config: Config) -> Iterator[Document]:
    return documents(config.path, config.field)


def write_jsonl(path: Path, records: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def config_of(path: Path | str, **changes: object) -> Config:
    return Config(**({"path": str(path), "context": 16, "held_out": 0.0} | changes))


def all_rows(config: Config, model: Model, split: str = "train", **args: int) -> list[Rows]:
    return list(text.rows(config, model, split, **({"batch": 4} | args)))


def joined(batches: Sequence[Rows]) -> tuple[list[list[int]], list[list[int]], list[str]]:
    """Ids and document numbers of each row, and its kind."""
    ids = chain.from_iterable(rows.ids.tolist() for rows in batches)
    documents = chain.from_iterable(rows.documents.tolist() for rows in batches)
    return list(ids), list(documents), list(chain.from_iterable(rows.kinds for rows in batches))


def stream(model: Model, texts: Sequence[str]) -> list[int]:
    """What the rows are cut from: documents, each behind its BOS."""
    return list(chain.from_iterable(model.encode(t) for t in texts if t))


def unpacked(rows: Sequence[list[int]], documents: Sequence[list[int]], bos_id: int) -> list[int]:
    """Join rows, without the BOS that was put where a row cuts a document."""
    out: list[int] = []
    last = -1
    for ids, numbers in zip(rows, documents, strict=True):
        assert ids[0] == bos_id
        out += ids[1:] if numbers[0] == last else ids
        last = numbers[-1]
    return out


# ---- rows


documents_of_text = st.lists(
    st.text(alphabet="abc de\nĀ中<bos>", max_size=60), min_size=1, max_size=12
)


@shared_files
@given(texts=documents_of_text, context=st.integers(2, 20))
def test_rows_join_to_the_tokens_of_the_text(
    tiny_model: Model, tmp_path: Path, texts: list[str], context: int
):
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": t} for t in texts])
    whole = stream(tiny_model, texts)
    if len(whole) < context:
        with pytest.raises(ConfigError, match="does not fill a row"):
            all_rows(config_of(path, context=context), tiny_model)
        return
    rows, documents, _ = joined(all_rows(config_of(path, context=context), tiny_model))
    got = unpacked(rows, documents, tiny_model.bos_id)
    assert {len(row) for row in rows} == {context}
    assert got == whole[: len(got)]
    assert len(whole) - len(got) < context  # a BOS more and it would be a row


@shared_files
@given(texts=documents_of_text, skip=st.integers(0, 30), batch=st.integers(1, 5))
def test_skipping_equals_dropping(
    tiny_model: Model, tmp_path: Path, texts: list[str], skip: int, batch: int
):
    records = [{"text": "always enough for a row", "kind": "z"}]
    records += [{"text": t, "kind": str(i)} for i, t in enumerate(texts)]
    config = config_of(write_jsonl(tmp_path / "t.jsonl", records), context=6)
    whole = joined(all_rows(config, tiny_model))
    skipped = all_rows(config, tiny_model, skip_rows=skip, batch=batch)
    assert joined(skipped) == tuple(part[skip:] for part in whole)
    assert all(len(rows.ids) == batch for rows in skipped[:-1])


@shared_files
@given(share=st.sampled_from([0.0, 0.05, 0.3, 0.9]), n_documents=st.integers(1, 60))
def test_the_split_is_disjoint_and_complete(
    tiny_model: Model, tmp_path: Path, share: float, n_documents: int
):
    """Documents of exactly one row: BOS and one token."""
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": "a"}] * n_documents)
    config = config_of(path, context=2, held_out=share)
    numbers: dict[str, list[int]] = {"train": [], "held_out": []}
    for split, found in numbers.items():
        try:
            rows = all_rows(config, tiny_model, split)
        except ConfigError:
            continue
        found += [numbers[0] for numbers in joined(rows)[1]]
    assert sorted(numbers["train"] + numbers["held_out"]) == list(range(n_documents))
    assert not set(numbers["train"]) & set(numbers["held_out"])


def test_the_held_out_share_is_the_one_asked_for():
    held_out = [text._is_held_out(number, 0.05) for number in range(5_000)]
    assert 0.04 < sum(held_out) / len(held_out) < 0.06
    larger = [text._is_held_out(number, 0.2) for number in range(5_000)]
    assert all(b for a, b in zip(held_out, larger, strict=True) if a)


def test_rows_keep_documents_positions_kinds_and_masks(tiny_model: Model, tiny_text: Path):
    batches = all_rows(config_of(tiny_text), tiny_model)
    records = [json.loads(line) for line in tiny_text.read_text(encoding="utf-8").splitlines()]
    assert [len(rows.ids) for rows in batches[:-1]] == [4] * (len(batches) - 1)
    for rows in batches:
        assert rows.ids.dtype == rows.documents.dtype == torch.int64
        assert torch.equal(rows.mask, rows.ids >= 3)  # the three special tokens come first
        assert not rows.mask[:, 0].any()
        for kind, numbers in zip(rows.kinds, rows.documents.tolist(), strict=True):
            assert kind == records[numbers[0]]["kind"]
            assert numbers == sorted(numbers)
    assert set(chain.from_iterable(rows.kinds for rows in batches)) == {
        "prose",
        "code",
        "news",
        "french",
    }


def test_rows_are_the_same_each_time(tiny_model: Model, tiny_text: Path):
    config = config_of(tiny_text, held_out=0.1)
    for split in ("train", "held_out"):
        one, other = (joined(all_rows(config, tiny_model, split)) for _ in range(2))
        assert one == other


def test_portions_do_not_show(tiny_model: Model, tiny_text: Path, monkeypatch: pytest.MonkeyPatch):
    whole = joined(all_rows(config_of(tiny_text), tiny_model))
    monkeypatch.setattr(text, "ENCODE_CHARACTERS", 100)
    assert joined(all_rows(config_of(tiny_text), tiny_model)) == whole


def test_text_is_read_as_it_is_needed(tiny_model: Model, tmp_path: Path, monkeypatch):
    """The broken line far behind is not met by one who takes a few rows."""
    monkeypatch.setattr(text, "ENCODE_CHARACTERS", 100)
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": "some words in a row " * 5}] * 50)
    with path.open("a") as file:
        file.write("{broken\n")
    rows = text.rows(config_of(path), tiny_model, "train", 1)
    assert next(rows).ids.shape == (1, 16)
    with pytest.raises(ConfigError, match=r"t\.jsonl:51"):
        list(rows)


# ---- formats


RECORDS = [{"text": f"Document {i}: naïve 中 🌧\r\nand more.", "kind": f"k{i}"} for i in range(5)]


def as_jsonl(folder: Path) -> Path:
    return write_jsonl(folder / "t.jsonl", RECORDS)


def as_gz(folder: Path) -> Path:
    path = folder / "t.jsonl.gz"
    path.write_bytes(gzip.compress(as_jsonl(folder).read_bytes()))
    return path


def as_xz(folder: Path) -> Path:
    path = folder / "t.jsonl.xz"
    path.write_bytes(lzma.compress(as_jsonl(folder).read_bytes()))
    return path


def as_parquet(folder: Path) -> Path:
    path = folder / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path)
    return path


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep what the datasets library writes in this test's folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize("written", [as_jsonl, as_gz, as_xz, as_parquet])
def test_each_format_gives_the_same_documents(tmp_path: Path, written: Callable[[Path], Path]):
    found = list(documents_of(config_of(written(tmp_path))))
    assert [document._asdict() for document in found] == RECORDS


@pytest.mark.usefixtures("no_cache")
def test_data_sets_are_streamed_by_split(tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", RECORDS)
    write_jsonl(folder / "test.jsonl", RECORDS[:2])
    assert len(list(documents_of(config_of(f"hf://{folder}")))) == 5
    assert len(list(documents_of(config_of(f"hf://{folder}:test")))) == 2
    with pytest.raises(ConfigError, match=r"cannot be read .*name a part that it has"):
        list(documents_of(config_of(f"hf://{folder}:nope")))


@pytest.mark.usefixtures("no_cache")
def test_a_data_set_without_network():
    with pytest.raises(NotFound, match=r"text hf://nobody/nothing: cannot be read .*the network"):
        list(documents_of(config_of("hf://nobody/nothing")))


def test_without_the_datasets_library(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Unsupported, match=r"needs the datasets library; pip install 'panscope\["):
        list(documents_of(config_of("hf://nobody/nothing")))


def test_text_files_are_documents_in_the_order_of_their_names(tmp_path: Path):
    (tmp_path / "b.txt").write_text("second\n")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbffirst")  # with a byte order mark
    (tmp_path / "c.md").write_text("not this one")
    found = [document.text for document in documents_of(config_of(tmp_path))]
    assert found == ["first", "second\n"]
    assert [d.text for d in documents_of(config_of(tmp_path / "b.txt"))] == ["second\n"]


def test_another_field_and_blank_lines(tmp_path: Path):
    path = tmp_path / "t.jsonl"
    path.write_text('\n{"body": "one"}\n   \n{"body": "two", "kind": 3}\n')
    found = list(documents_of(config_of(path, field="body")))
    assert found == [("one", ""), ("two", "3")]


def test_a_text_that_is_no_text_is_refused(tiny_model: Model):
    with pytest.raises(ConfigError, match=r"text 'caf.*': is not UTF-8"):
        tiny_model.encode("caf\udce9")  # as Python reads Latin-1 from a terminal


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path, tiny_model: Model):
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"text": "a\\ud83d b \\ud83d\\ude00 and enough words for one row of sixteen"}\n'
    )
    (document,) = documents_of(config_of(path))
    assert document.text.startswith("a\ufffd b 😀 and")
    assert all_rows(config_of(path), tiny_model)


def test_the_packaged_text(tiny_model: Model):
    if not pocket_file("text.jsonl.xz").is_file():
        with pytest.raises(NotFound, match=r"no file text\.jsonl\.xz; reinstall panscope"):
            next(documents_of(Config()))
        return
    assert next(text.rows(Config(), tiny_model, "train", 2)).ids.shape == (2, 128)


def test_the_fingerprint_names_configuration_and_bytes(tmp_path: Path):
    path = write_jsonl(tmp_path / "t.jsonl", RECORDS)
    before = text.fingerprint(config_of(path))
    assert text.fingerprint(config_of(path)) == before
    assert text.fingerprint(config_of(path, context=17)) != before
    write_jsonl(path, RECORDS[1:])
    assert text.fingerprint(config_of(path)) != before
    hub = [text.fingerprint(config_of(f"hf://a/{name}")) for name in "bc"]
    assert hub[0] != hub[1]


# ---- what a user can get wrong


LINE = json.dumps({"text": "fine"}).encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        (
            b'{"text": "a"\n',
            ConfigError,
            r"t\.jsonl:2: is not JSON \(.*\); write one object a line",
        ),
        (b"[" * 100_000 + b"\n", ConfigError, r"t\.jsonl:2: is not JSON"),
        (b"[1, 2]\n", ConfigError, r"t\.jsonl:2: is a JSON list; write one object a line"),
        (b'{"txt": "a"}\n', ConfigError, r"2: has no field 'text'; .*\(did you mean txt\?\)"),
        (b'{"text": null}\n', ConfigError, r"2: field 'text' is NoneType, not text; set text\.fie"),
        (b'{"text": "\xff"}\n', ConfigError, r"2: is not UTF-8 at byte 10; convert the file"),
    ],
    ids=["malformed", "too deep", "a list", "no field", "no text", "not UTF-8"],
)
def test_a_bad_line_is_named(
    tmp_path: Path, content: bytes, error: type[PanscopeError], sentence: str
):
    path = tmp_path / "t.jsonl"
    path.write_bytes(LINE + content)
    with pytest.raises(error, match=sentence):
        list(documents_of(config_of(path)))


@pytest.mark.parametrize("name", ["nowhere.jsonl", "no/such/folder", ""])
def test_a_text_that_is_not_there(name: str):
    with pytest.raises(NotFound, match=f"text {name}: no file"):
        list(documents_of(config_of(name)))


def test_a_folder_without_text(tmp_path: Path):
    with pytest.raises(NotFound, match=r"the folder has no \.txt file; give a file or a folder"):
        list(documents_of(config_of(tmp_path)))


def test_a_format_that_is_not_read(tmp_path: Path):
    (tmp_path / "t.csv").write_text("a,b")
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(b"a"))
    for name, shown in (("t.csv", r"\.csv"), ("t.txt.gz", r"\.gz")):
        with pytest.raises(ConfigError, match=rf"cannot read {shown} files; give one of \.txt"):
            list(documents_of(config_of(tmp_path / name)))


def test_text_that_is_not_utf8(tmp_path: Path):
    (tmp_path / "t.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"t\.txt: is not UTF-8 at byte 2; convert the file"):
        list(documents_of(config_of(tmp_path)))


@pytest.mark.parametrize("written", [as_gz, as_xz])
@pytest.mark.parametrize("kept", [0.5, 0.0], ids=["truncated", "not packed"])
def test_a_damaged_archive(tmp_path: Path, written: Callable[[Path], Path], kept: float):
    path = written(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))] or b"not an archive")
    with pytest.raises(Corrupt, match=r"cannot be unpacked .*fetch or make the file again"):
        list(documents_of(config_of(path)))


def test_a_flipped_byte_in_an_archive(tmp_path: Path):
    path = as_gz(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises((Corrupt, ConfigError), match=r"t\.jsonl\.gz"):
        list(documents_of(config_of(path)))


@pytest.mark.usefixtures("no_cache")
def test_a_damaged_parquet_file(tmp_path: Path):
    path = as_parquet(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(Corrupt, match=r"t\.parquet: cannot be read .*fetch or make the file again"):
        list(documents_of(config_of(path)))


@pytest.mark.usefixtures("no_cache")
def test_a_column_that_is_not_there(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"0: has no field 'txt'; .*\(did you mean text\?\)"):
        list(documents_of(config_of(as_parquet(tmp_path), field="txt")))


@pytest.mark.parametrize("content", ["", "\n\n", '{"text": ""}\n', '{"text": "short"}\n'])
def test_an_empty_corpus(tmp_path: Path, tiny_model: Model, content: str):
    path = tmp_path / "t.jsonl"
    path.write_text(content)
    sentence = r"its train part does not fill a row of 16 tokens; give more text, or set a smaller"
    with pytest.raises(ConfigError, match=sentence):
        all_rows(config_of(path), tiny_model)


def test_nothing_held_out(tmp_path: Path, tiny_model: Model):
    with pytest.raises(ConfigError, match=r"its held_out part does not fill .*text\.held_out"):
        all_rows(config_of(write_jsonl(tmp_path / "t.jsonl", RECORDS)), tiny_model, "held_out")


@pytest.mark.parametrize(("key", "value"), [("context", 1), ("held_out", 1.0), ("held_out", -0.1)])
def test_numbers_out_of_range(key: str, value: float):
    with pytest.raises(ConfigError, match=f"recipe: {key} is {value}"):
        Config.parse({key: value}, "recipe")
