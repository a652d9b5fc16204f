"""The path from text to page through the command line, small; and every way to hold it wrong."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from transformers import AutoModelForCausalLM, GPTNeoXConfig, OPTConfig

from panscope import files, splice
from panscope.atlas.features import Atlas
from panscope.atlas.labels import Label, Score
from panscope.atlas.notes import Notes
from panscope.cli import main
from panscope.cli.report import Report
from panscope.edits import dumped, parse, read
from panscope.model.folder import pocket_file
from panscope.plan import calibrate
from panscope.stages.train.loop import Pass
from panscope.store.reader import Store
from panscope.store.shared import reading
from panscope.store.shuffle import permutation
from panscope.store.window import Window

TINY = (
    "text.context=16",
    "text.held_out=0.2",
    "harvest.bucket_tokens=512",
    "harvest.batch_rows=8",
    "train.widths=[48]",
    "train.target_l0=[6.0]",
    "train.tokens=7680",
    "train.batch_tokens=128",
    "train.checkpoint_steps=10",
    "evaluate.tokens=256",
    "evaluate.batch_rows=8",
    "describe.tokens=2048",
    "describe.batch_rows=8",
)


Command = Callable[..., Result]


@pytest.fixture(scope="session")
def panscope() -> Command:
    def run(*args: object) -> Result:
        return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)

    return run


@pytest.fixture(scope="session")
def tiny_demo(tiny_model_folder: Path, tiny_text: Path) -> tuple[object, ...]:
    return ("demo", "--no-serve", "--model", tiny_model_folder, "--text", tiny_text, *TINY)


@pytest.fixture(scope="session")
def finished(
    panscope: Command, tiny_demo: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run = tmp_path_factory.mktemp("runs") / "demo"
    result = panscope(*tiny_demo, "--output", run)
    assert result.exit_code == 0, result.output
    return run


@pytest.fixture
def noted(finished: Path) -> Iterator[Path]:
    """The finished run, from which notes are taken away again: they are no part of it."""
    yield finished
    for path in finished.glob("notes.sqlite*"):
        path.unlink()


def hashes(folder: Path) -> dict[str, str]:
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "events.jsonl"]
    return {str(path.relative_to(folder)): files.blake3_of(path) for path in paths}


def test_the_demo_ends_with_a_table_and_two_sealed_artefacts(
    panscope: Command, finished: Path, tiny_demo: tuple[object, ...]
):
    again = panscope(*tiny_demo, "--output", finished)
    assert again.exit_code == 0
    assert again.output.count("already done") == 3, "run again, all is reused"
    rows = [line for line in again.output.splitlines() if line.startswith(("resid", "mlp", "attn"))]
    assert len(rows) == 9, "three sites at three layers"
    assert files.read_manifest(finished / "suite", "suite")
    assert files.read_manifest(finished / "atlas", "atlas")
    assert not list(finished.rglob(".*")), "no checkpoint, no temporary file is left"
    events = [json.loads(line) for line in (finished / "events.jsonl").read_text().splitlines()]
    assert {"train", "evaluate", "describe"} == {event["stage"] for event in events}
    assert (finished / "report.md").read_text().count("| `") == 9
    assert json.loads((finished / "recipe.json").read_text())["train"]["widths"] == [48]


def test_a_model_of_another_family_goes_the_same_way(
    panscope: Command, tiny_text: Path, tmp_path: Path
):
    """Pythia is the oddest: attention and MLP side by side, LayerNorms with biases."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    config = GPTNeoXConfig(vocab_size=4096, num_hidden_layers=2, initializer_range=0.3, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_bytes(pocket_file(name).read_bytes())
    where = ("--model", tmp_path / "model", "--text", tiny_text, "--output", tmp_path / "run")
    result = panscope("demo", "--no-serve", *TINY, "train.tokens=2560", *where)
    assert result.exit_code == 0, result.output
    suite = files.read_manifest(tmp_path / "run" / "suite")
    assert len(suite.facts["evaluation"]) and len(suite.facts["saes"]) == 6


def test_any_model_is_trained_on_and_measured_at_the_ends_of_its_modules(
    panscope: Command, tiny_text: Path, tmp_path: Path
):
    sizes = {"hidden_size": 32, "ffn_dim": 64, "num_attention_heads": 4, "word_embed_proj_dim": 32}
    config = OPTConfig(vocab_size=4096, num_hidden_layers=2, init_std=0.3, bos_token_id=2, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_bytes(pocket_file(name).read_bytes())
    where = (f"model.name={tmp_path / 'model'}", f"text.path={tiny_text}", "train.tokens=2560")
    run = ("demo", *TINY, *where, "--output", tmp_path / "run")
    result = panscope("train", *run, 'train.sites=["model.decoder.layers.*.output"]')
    assert result.exit_code == 0, result.output
    result = panscope("evaluate", *run)
    assert result.exit_code == 0, result.output
    saes = files.read_manifest(tmp_path / "run" / "suite").facts["saes"]
    assert [sae["site"] for sae in saes] == [
        "model.decoder.layers.0.output",
        "model.decoder.layers.1.output",
    ]
    named = panscope("train", *run, 'train.sites=["resid_post.*"]')
    assert named.exit_code == 6
    assert "name a module's end by its path" in named.stderr


def test_show_and_verify(panscope: Command, finished: Path):
    shown = panscope("show", finished / "suite")
    assert "suite, format 2" in shown.output
    assert "from model" in shown.output and "{" not in shown.output, "the configuration is JSON's"
    tree = json.loads(panscope("show", finished / "atlas", "--json").output)
    assert tree["kind"] == "atlas"
    assert tree["inputs"]["suite"] == files.read_manifest(finished / "suite").digest
    verified = panscope("verify", finished)
    assert verified.exit_code == 0
    assert "every byte as it was written" in verified.output
    whole = panscope("export", finished, "--as", "saelens", "--output", finished / "theirs")
    assert f"give {finished / 'atlas'} or {finished / 'suite'}" in whole.stderr


def test_a_text_is_steered_beside_the_normal_one(panscope: Command, noted: Path, tmp_path: Path):
    sae = next(iter(files.read_manifest(noted / "suite").facts["saes"]))["sae"]
    written = ("steer", noted, "The old lamp", "--tokens", 4, "--temperature", 0)
    lines = panscope(*written, "--feature", f"{sae}:3+50", "--json").output.splitlines()
    tokens = [json.loads(line) for line in lines]
    assert len(tokens) == 4 and tokens[0]["kl_nats"] > 0
    file = tmp_path / "edits.toml"
    file.write_text(f"[[edits]]\nsae = '{sae}'\nindex = 3\nvalue = 50.0\n", encoding="utf-8")
    assert panscope(*written, "--edits", file, "--json").output.splitlines() == lines
    assert "share of the stream" not in panscope(*written).output, "nothing was edited"
    table = panscope(*written, "--edits", file).output
    assert "steered: KL" in table and f"add 50: {sae}:3" in table
    wrong = panscope(*written, "--feature", f"{sae[1:]}:3+50")
    assert wrong.exit_code == 3 and f"did you mean {sae}" in wrong.stderr
    with closing(Notes.open(noted / "notes.sqlite")) as notes:
        notes.saved.save("[more] rain", dumped(read(file)))
    saved = panscope(*written, "--saved", "[more] rain", "--json")
    assert saved.output.splitlines() == lines
    wrong = panscope(*written, "--saved", "[mor] rain")
    assert wrong.exit_code == 3 and "did you mean [more] rain" in wrong.stderr


def test_what_cannot_be_steered_or_contrasted_is_said_before_a_model_is_loaded(
    panscope: Command, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(splice, "opened", lambda run: pytest.fail("the model is loaded"))
    atlas = Atlas(finished / "atlas")
    sae, dead = next((s, i) for s in atlas.saes for i in range(48) if not atlas.feature(s, i).max)
    for feature, code, said in (
        (f"{sae}9:3*4", 3, f"did you mean {sae}"),
        (f"{sae}:48*4", 3, "give an index from 0 to 47"),
        (f"{sae}:{dead}*4", 2, "never fired"),
    ):
        result = panscope("steer", finished, "Once", "--feature", feature)
        assert result.exit_code == code and said in result.stderr
    (tmp_path / "few.txt").write_text("One.\nTwo.\n", encoding="utf-8")
    (tmp_path / "many.txt").write_text("One.\n" * 8, encoding="utf-8")
    few = ("contrast", finished, "--a", tmp_path / "many.txt", "--b", tmp_path / "few.txt")
    assert "few.txt: has 2 prompts; give 8 or more" in panscope(*few).stderr
    same = ("contrast", finished, "--a", tmp_path / "many.txt", "--b", tmp_path / "many.txt")
    assert f"did you mean {sae}" in panscope(*same, f'saes=["{sae}9"]').stderr
    nowhere = panscope("steer", finished / "nope", "Once")
    assert nowhere.exit_code == 3 and "nope/atlas: no such folder" in nowhere.stderr


def test_notes_are_listed_and_exported(panscope: Command, noted: Path):
    assert panscope("notes", noted).output.startswith("Nothing is kept yet. Bookmark features")
    sae = next(iter(files.read_manifest(noted / "suite").facts["saes"]))["sae"]
    with closing(Notes.open(noted / "notes.sqlite")) as notes:
        notes.saved.save("less [rain]", dumped([parse(f"{sae}:3*-2")]))
        notes.saved.bookmark(sae, 3)
    listed = panscope("notes", noted).output
    assert "Nothing is kept" not in listed
    assert f"{sae}:3" in listed and "less [rain]" in listed and "add -2 x max" in listed
    exported = json.loads(panscope("notes", noted, "--json").output)
    assert exported["edits"][0]["edits"] == [{"sae": sae, "index": 3, "value": -2.0, "unit": "max"}]
    assert [mark["index"] for mark in exported["bookmarks"]] == [3]
    wrong = panscope("notes", noted, "--remove", "les [rain]")
    assert wrong.exit_code == 3 and "did you mean less [rain]" in wrong.stderr
    left = panscope("notes", noted, "--remove", "less [rain]", "--sae", sae, "--json").output
    assert json.loads(left) | {"edits": []} == json.loads(left) != exported
    assert panscope("notes", noted, "--sae", f"{sae}x").exit_code == 3


def test_lists_and_comments_are_listed_and_exported(panscope: Command, noted: Path):
    sae = next(iter(files.read_manifest(noted / "suite").facts["saes"]))["sae"]
    name = "months [of]  the year " + "x" * 70
    with closing(Notes.open(noted / "notes.sqlite")) as notes:
        notes.lists.put(name, sae, 3, "not [May]")
        notes.lists.put("dates", sae, 4)
        notes.comments.add(sae, 3, "fires on [June]", "Ada\x1b]0;title\x07\x9b31m")
    whole = panscope("notes", noted).output
    assert "months [of] the year" in whole and whole.count("x") == 70, "whole names"
    assert not {"\x1b", "\x07", "\x9b"} & set(whole), "a terminal would obey them"
    assert "fires on [June]" in " ".join(whole.split()) and "not [May]" not in whole
    one = panscope("notes", noted, "--list", name).output
    assert f"{sae}:3" in one and "not [May]" in one and f"{sae}:4" not in one
    exported = json.loads(panscope("notes", noted, "--json").output)
    assert exported["lists"][0]["name"] == "dates"
    assert exported["comments"][0]["author"].startswith("Ada\x1b")
    listed = json.loads(panscope("notes", noted, "--json", "--list", "dates").output)
    assert listed == {"lists": exported["lists"][:1]}
    wrong = panscope("notes", noted, "--list", "date")
    assert wrong.exit_code == 3 and "did you mean dates" in wrong.stderr
    assert panscope("notes", noted, "--list", " ").exit_code == 2


def test_labels_are_listed_with_what_their_scores_were_judged_on(panscope: Command, noted: Path):
    sae = next(iter(files.read_manifest(noted / "suite").facts["saes"]))["sae"]
    assert "No label yet" in panscope("labels", noted, f"{sae}:3").output
    atlas = Atlas(noted / "atlas")
    feature = next(f for f in atlas.features(sae, range(48)) if f.examples)
    example, named = feature.examples[0], f"{sae}:{feature.index}"
    window = {"context": example.context, "start": example.peak, "tokens": 1}
    asked = [window | {"true": True, "told": told} for told in (True, None, False)]
    score = Score("detection", 0.5, None, 2, 1, details=json.dumps(asked))
    with closing(Notes.open(noted / "notes.sqlite")) as notes:
        notes.add(Label(sae, feature.index, "[bold] words", "Ada", scores=(score,)))
    assert "0.50/-" in panscope("labels", noted, named).output
    listed = panscope("labels", noted, named, "--windows").output
    signs = [line[0] for line in listed.splitlines() if "<<" in line]
    assert signs == ["✗", " ", "✓"] and "detection: [bold] words" in listed
    (label,) = json.loads(panscope("labels", noted, named, "--json").output)
    assert json.loads(label["scores"][0]["details"]) == asked
    wrong = panscope("labels", noted, sae)
    assert wrong.exit_code == 2 and "write SAE:INDEX" in wrong.stderr


def test_two_sets_of_prompts_are_contrasted(panscope: Command, finished: Path, tmp_path: Path):
    for name, words in (("night", "The lamp stood by river {}"), ("jour", "Le chat {} dort")):
        lines = "".join(words.format(n) + "\n" for n in range(8))
        (tmp_path / f"{name}.txt").write_text(lines, encoding="utf-8")
    sets = ("--a", tmp_path / "night.txt", "--b", tmp_path / "jour.txt")
    out = tmp_path / "told"
    result = panscope("contrast", finished, "ks=[1]", *sets, "--output", out)
    assert result.exit_code == 0, result.output
    assert "8 prompts of set a, 8 of b" in " ".join(result.output.split())
    assert files.verify(out) == []
    wrong = panscope("contrast", finished, "pol=last", *sets)
    assert wrong.exit_code == 2 and "did you mean pool" in wrong.stderr


def test_a_report_never_cuts_what_a_row_is_of():
    terminal = Console(width=48, file=StringIO())
    row = "| `resid_post.2/w2048_l0_20_s0` | 1.00 (1.00) | 1.00 (1.00) |"
    terminal.print(
        Report(f"| Sae | difference of means | logistic regression |\n|---|---|---|\n{row}")
    )
    assert "resid_post.2/w2048_l0_20_s0 " in terminal.file.getvalue()


def test_verify_names_a_corrupt_file(
    panscope: Command, tiny_demo: tuple[object, ...], finished: Path, tmp_path: Path
):
    subprocess.run(["cp", "-r", finished, tmp_path / "run"], check=True)
    path = next((tmp_path / "run" / "atlas" / "features").rglob("*.parquet"))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    result = panscope("verify", tmp_path / "run")
    assert result.exit_code == 1
    assert path.name in result.stderr
    assert "blake3" in result.stderr


@pytest.mark.parametrize("seconds", [0.5, 1.5, 3.0])
def test_killed_at_any_time_it_resumes_to_the_same_bytes(
    seconds: float,
    finished: Path,
    tiny_demo: tuple[object, ...],
    panscope: Command,
    tmp_path: Path,
):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "panscope", *map(str, tiny_demo), "--output", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (out / "events.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert panscope(*tiny_demo, "--output", out).exit_code == 0
    assert hashes(out) == hashes(finished)


def test_the_store_trains_the_suite_too(
    panscope: Command, tiny_model_folder: Path, tiny_text: Path, tmp_path: Path
):
    common = (
        f'model.name="{tiny_model_folder}"',
        f'text.path="{tiny_text}"',
        *TINY,
        "train.tokens=2560",
        'source="store"',
        "harvest.tokens=2000",
        "--output",
        tmp_path,
    )
    harvested = panscope("harvest", "demo", *common)
    assert harvested.exit_code == 0
    table = harvested.stdout[harvested.stdout.index("error as float32") :].splitlines()[1:]
    sites = [str(site) for site in Store.open(tmp_path / "store").sites]
    assert [line.split()[0] for line in table if line.strip()] == sites
    assert panscope("train", "demo", *common).exit_code == 0
    store, suite = (files.read_manifest(tmp_path / part) for part in ("store", "suite"))
    assert suite.inputs["store"] == store.digest


def test_a_plan_needs_no_model_and_writes_nothing(panscope: Command, tmp_path: Path):
    arguments = ("plan", "gemma-2-9b", "--no-calibration", "--output", tmp_path / "runs")
    told = panscope(*arguments, "--price", "2.5")
    assert told.exit_code == 0, told.output
    assert "Streaming is cheaper on H100 SXM" in told.stdout
    tree = json.loads(panscope(*arguments, "--json", "train.seeds=[0, 1]").stdout)
    assert tree["activation_bytes"]["float32"] / 2**50 == pytest.approx(13.75, abs=0.01)
    assert tree["parts"][0]["n_saes"] == 2 * 126 * 6
    assert [cost["machine"]["name"] for cost in tree["costs"]][:2] == ["H100 SXM", "A100 SXM"]
    assert not list(tmp_path.iterdir())


def test_a_recipe_that_is_not_there_is_said_before_torch_is_imported(tmp_path: Path):
    """By a process of its own, in which torch cannot be imported."""
    code = "import sys; sys.modules['torch'] = None; from panscope.cli import main; main()"
    for arguments in (("train", "demmo", "--output", str(tmp_path)), ("plan", "demmo")):
        command = [sys.executable, "-c", code, *arguments]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        assert told.returncode == 3
        assert "recipe demmo: no such file or packaged recipe; did you mean demo?" in told.stderr


def test_a_plan_measures_this_machine(
    panscope: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(calibrate, "here", partial(calibrate.here, seconds=0.1))
    monkeypatch.setattr(calibrate, "CHUNK", 1 << 20)
    told = panscope("plan", "demo", "--json", "--output", tmp_path)
    assert told.exit_code == 0, told.output
    assert "calibrate" in told.stderr
    here, *others = json.loads(told.stdout)["costs"]
    assert here["machine"]["name"] == "this machine"
    assert here["total_hours"] > max(cost["total_hours"] for cost in others)
    assert not list(tmp_path.iterdir())


def test_a_plan_without_a_shape_says_what_is_missing(panscope: Command):
    told = panscope("plan", "gemma_scope_1", "model.name=nobody/nothing", "--no-calibration")
    assert told.exit_code == 3
    assert "nobody/nothing" in told.stderr
    assert told.stderr.count("\n") == 1


def test_parts_trained_over_text_equal_separate_trainings(
    panscope: Command, tiny_model_folder: Path, tiny_text: Path, tmp_path: Path
):
    """The parts differ in sites and tokens; each is a pass that reads its own sites alone."""
    first = ("train.tokens=1280", "train.sites=['mlp_out.0', 'attn_z.2']")
    second = ("train.tokens=2560", "train.sites=['resid_post.1']", "train.widths=[40]")
    part = "{sites=['resid_post.1'], widths=[40], target_l0=[6.0], tokens=2560}"
    runs = {"parts": (*first, f"train.more=[{part}]"), "first": first, "second": second}
    weights = {}
    for name, own in runs.items():
        where = (f'model.name="{tiny_model_folder}"', f'text.path="{tiny_text}"')
        result = panscope("train", "demo", *where, *TINY, *own, "--output", tmp_path / name)
        assert result.exit_code == 0, result.output
        suite = tmp_path / name / "suite"
        found = suite.rglob("sae.safetensors")
        weights[name] = {path.relative_to(suite): path.read_bytes() for path in found}
    assert len(weights["parts"]) == 3
    assert weights["parts"] == weights["first"] | weights["second"]


def test_trainers_share_a_store_and_resume_where_they_joined(
    panscope: Command,
    tiny_model_folder: Path,
    tiny_text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    common = (
        f'model.name="{tiny_model_folder}"',
        f'text.path="{tiny_text}"',
        *TINY,
        "train.tokens=2560",
        'source="store"',
        "harvest.tokens=2000",
        f'store.folder="{tmp_path / "store"}"',
    )
    joining = ("train", "demo", *common, "store.shared_gb=0.01", "store.join=true", "--output")
    assert panscope("harvest", "demo", *common, "--output", tmp_path / "harvest").exit_code == 0
    store = Store.open(tmp_path / "store")
    with reading(store, store.sites, 0, 10_000_000) as other:
        order = permutation(0, 0, len(store.facts.shards)).tolist()
        for visit in range(3):
            other.shard(visit, order[visit], store.sites)
        with monkeypatch.context() as patch:
            patch.setattr(Pass, "_read", interrupted)
            stopped = panscope(*joining, tmp_path / "late")
        said = "error: train: was stopped; run the same command again\n"
        assert (stopped.exit_code, said in stopped.stderr) == (130, True)
        assert list(other.window.readers()) == [other.file.name], "the other is left"
    assert panscope(*joining, tmp_path / "late").exit_code == 0
    whole = ("train", "demo", *common, "store.begin=2", "--output", tmp_path / "whole")
    assert panscope(*whole).exit_code == 0
    assert hashes(tmp_path / "late" / "suite") == hashes(tmp_path / "whole" / "suite")
    inputs = files.read_manifest(tmp_path / "late" / "suite").inputs
    assert inputs["begin"] == "shard 2 of the order"
    assert not Window.of(store.manifest).folder.exists()
    (tmp_path / "late" / "begin.json").write_text("{")
    refused = panscope(*joining, tmp_path / "late")
    assert (refused.exit_code, "begin.json: does not say where" in refused.stderr) == (4, True)


def interrupted(*_: object) -> None:
    """Stand in for the reading of metrics, which comes after the first checkpoint."""
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["train.sites=['resid_pots.*']"], 3, "did you mean resid_post"),
        (["train.sites=['resid_post.9']"], 3, "use resid_post.0 to resid_post.2"),
        (["train.widths=[0]"], 2, "train.widths.0 is 0"),
        (["train.target_l0=[99.0]"], 2, "target_l0 99 is not below the width"),
        (["train.widht=[64]"], 2, "unknown key train.widht; did you mean widths?"),
        (["train.tokens=nonsense"], 2, "train.tokens is 'nonsense'"),
        (["store.shared_gb=4"], 2, 'reads the live stream; set source = "store"'),
        (["store.shared_gb=-1"], 2, "store.shared_gb is -1"),
        (["store.shared=4"], 2, "unknown key store.shared; did you mean shared_gb?"),
        (["no-equals-sign"], 2, "write section.key=value"),
        (["train.sites=['mlp_in_unit.*']"], 6, "can be read but not edited"),
        (["train.sites=['attn_pattern.*']"], 6, "has no vector for each token"),
        (["train.sites=['blocks.1.hook_mlp_in']"], 6, "name resid_mid.1 or mlp_in.1"),
        (["describe.batch_rows=0"], 2, "describe.batch_rows is 0"),
        (["--text", "nowhere.jsonl"], 3, "text nowhere.jsonl"),
        (["--model", "nowhere/at-all"], 3, "nowhere/at-all"),
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(
    panscope: Command,
    tiny_demo: tuple[object, ...],
    tmp_path: Path,
    arguments: list[str],
    exit_code: int,
    message: str,
):
    out = tmp_path / "run"
    result = panscope(*tiny_demo, *arguments, "--output", out)
    assert result.exit_code == exit_code, result.output
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists(), "nothing is half-written"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", "does not fill a row"),
        ("latin.txt", "caf\xe9".encode("latin-1"), "is not UTF-8"),
        ("bad.jsonl", b'{"text": "fine"}\n{"text": \n', "bad.jsonl:2: is not JSON"),
        ("field.jsonl", b'{"txt": "fine"}\n', "did you mean txt?"),
        ("cut.jsonl.gz", b"\x1f\x8b\x08\x00cut short", "cut.jsonl.gz"),
        ("data.bin", b"\x00\x01", "cannot read .bin files"),
    ],
)
def test_unreadable_text_is_named(
    panscope: Command,
    tiny_demo: tuple[object, ...],
    tmp_path: Path,
    name: str,
    content: bytes,
    message: str,
):
    (tmp_path / name).write_bytes(content)
    result = panscope(*tiny_demo, "--text", tmp_path / name, "--output", tmp_path / "run")
    assert result.exit_code in (2, 4)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_another_recipe_does_not_overwrite_a_finished_run(
    panscope: Command, tiny_demo: tuple[object, ...], finished: Path
):
    before = hashes(finished / "suite")
    result = panscope(*tiny_demo, "train.seeds=[5]", "--output", finished)
    assert result.exit_code == 2
    assert "holds a suite made from another recipe" in result.stderr
    assert hashes(finished / "suite") == before


def test_a_suite_of_another_model_is_not_measured_with_this_one(
    panscope: Command, finished: Path, tiny_text: Path
):
    before = hashes(finished / "suite")
    arguments = ("evaluate", "demo", f'text.path="{tiny_text}"', *TINY, "--output", finished)
    result = panscope(*arguments)
    assert result.exit_code == 2
    assert "was made from another model" in result.stderr
    assert hashes(finished / "suite") == before


def test_a_port_in_use_is_said_before_long_work(panscope: Command, finished: Path, tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        served = panscope("serve", finished, "--port", port)
        demo = panscope("demo", "--output", tmp_path / "run", "--port", port)
    for result in (served, demo):
        assert result.exit_code == 2
        assert f"port {port}: is in use; give another with --port" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["show", "verify", "serve", "notes"])
def test_a_folder_that_is_not_there_is_said(panscope: Command, tmp_path: Path, command: str):
    result = panscope(command, tmp_path / "nowhere")
    assert result.exit_code == 3
    assert str(tmp_path / "nowhere") in result.stderr


@pytest.mark.parametrize(
    ("name", "said"), [("serv", "did you mean serve"), ("zzzz", "known: demo, plan")]
)
def test_an_unknown_command_is_answered(panscope: Command, name: str, said: str):
    result = panscope(name)
    assert result.exit_code == 2 and f"no command {name!r}; {said}" in result.stderr


MAKE = ["demo", "plan", "harvest", "train", "evaluate", "describe", "explain"]
READ = ["search", "labels", "notes", "serve", "steer", "contrast", "show", "verify"]


@pytest.mark.parametrize("command", MAKE + READ)
def test_help_shows_an_example(panscope: Command, command: str):
    result = panscope(command, "--help")
    assert result.exit_code == 0
    assert f"  panscope {command} " in result.output or f"  panscope {command}\n" in result.output
