"""The Hub, against a stand-in on loopback: push, pull, reading, and every way it can break."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import constants
from tests.formats.conftest import make_suite, random_sae
from tests.formats.hub_server import Hub, serving
from tests.formats.test_from_specification import drawn, save_npz

from panscope import files
from panscope.cli import main
from panscope.errors import ConfigError, Corrupt, NotFound, PanscopeError
from panscope.events import silent
from panscope.sae.suite import Suite
from panscope.stages import exchange
from panscope.stages.exchange import Ends, hub
from panscope.stages.exchange.card import card

# Of huggingface_hub's own upload.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()
    with serving(made) as url:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield made


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    saes = {f"resid_post.{n}/w10_l0_3_s0": random_sae(f"resid_post.{n}") for n in (0, 1)}
    metrics = {"l0": 3.14159, "fvu": 0.25, "delta_loss": 0.1, "dead_share": 0.0}
    return make_suite(tmp_path / "run/suite", saes, {"target_l0": 3.0, "metrics": metrics})


def push(suite: Suite) -> str:
    page = card(suite.manifest, "google/gemma-2-2b", "cc-by-4.0")
    return hub.push(suite.folder, "me/tiny", page, private=False)


def test_a_suite_goes_up_and_comes_down_to_the_bit(server: Hub, suite: Suite, tmp_path: Path):
    assert push(suite).startswith("http://127.0.0.1")
    assert set(server.repositories["models/me/tiny"]) == {
        "README.md",
        "manifest.json",
        *suite.manifest.files,
    }
    hub.pull("hf://me/tiny", tmp_path / "down", None)
    assert files.verify(tmp_path / "down") == []
    assert files.visible_files(tmp_path / "down")[-1].name == "sae.safetensors"
    for name in (*suite.manifest.files, "manifest.json"):
        assert (tmp_path / "down" / name).read_bytes() == (suite.folder / name).read_bytes()
    assert not (tmp_path / "down/.cache").exists()


def test_the_card_says_what_the_suite_is(suite: Suite):
    page = card(suite.manifest, "google/gemma-2-2b", "cc-by-4.0")
    assert page.startswith("---\nlicense: cc-by-4.0\nlibrary_name: panscope")
    assert 'base_model: "google/gemma-2-2b"' in page
    assert "| Sae | width | L0 | FVU | delta loss (nats) | dead |" in page
    assert "| `resid_post.0/w10_l0_3_s0` | 10 | 3.14 | 0.25 | 0.1 | 0 |" in page


def test_a_broken_push_shows_nothing_and_the_next_sends_the_rest(server: Hub, suite: Suite):
    server.fails_after = 1
    with pytest.raises(PanscopeError, match="could not be reached"):
        push(suite)
    assert server.repositories["models/me/tiny"] == {}
    assert len(server.puts) == 1
    server.fails_after = -1
    push(suite)
    assert len(server.puts) == 2, "what had gone up was not sent again"
    assert "manifest.json" in server.repositories["models/me/tiny"]


def test_a_pull_goes_on_where_it_stopped(server: Hub, suite: Suite, tmp_path: Path):
    push(suite)
    kept = server.repositories["models/me/tiny"]
    name = "resid_post.1/w10_l0_3_s0/sae.safetensors"
    whole = kept[name]
    kept[name] = whole[:-4] + b"flip"
    with pytest.raises(Corrupt, match=r"resid_post\.1.*blake3 is"):
        hub.pull("hf://me/tiny", tmp_path / "down", None)
    assert not (tmp_path / "down/manifest.json").exists()
    kept[name] = whole
    server.gets.clear()
    hub.pull("hf://me/tiny", tmp_path / "down", None)
    assert files.verify(tmp_path / "down") == []
    assert "resid_post.0/w10_l0_3_s0/sae.safetensors" not in server.gets, "it was there already"
    server.gets.clear()
    hub.pull("hf://me/tiny", tmp_path / "down", None)
    assert not [name for name in server.gets if name.endswith("safetensors")]


def test_a_damaged_suite_is_not_pushed(server: Hub, suite: Suite):
    path = suite.folder / next(iter(suite.manifest.files))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Corrupt, match="the manifest says"):
        push(suite)
    assert server.repositories == {}


def test_what_is_not_there_is_said(server: Hub, tmp_path: Path):
    with pytest.raises(NotFound, match="is not on the Hub; check the name"):
        hub.pull("hf://nobody/nothing", tmp_path / "down", None)
    with pytest.raises(NotFound, match="is not on the Hub"):
        hub.locate("hf://nobody/nothing", None)
    with pytest.raises(ConfigError, match="is no repository's name"):
        hub.locate("hf://a/b/c/d", None)


def test_of_a_foreign_repository_what_is_chosen_is_fetched(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    repo = server.repositories["models/google/gemma-scope-2b-pt-res"] = {"README.md": b""}
    for l0 in (22, 71, 139):
        folder = tmp_path / f"made/layer_20/width_16k/average_l0_{l0}"
        save_npz(folder, drawn())
        name = f"layer_20/width_16k/average_l0_{l0}/params.npz"
        repo[name] = (folder / "params.npz").read_bytes()
    source, named = "hf://google/gemma-scope-2b-pt-res", "layer_20/width_16k/canonical"
    opened = CliRunner().invoke(main, ["open", f"{source}/{named}", "--output", str(tmp_path)])
    assert opened.exit_code == 0, opened.output
    read = Suite.open(tmp_path / "suite")
    assert 'name = "google/gemma-2-2b"' in (tmp_path / "recipe.toml").read_text()
    assert read.names == ("resid_post.20/width_16k_average_l0_71",)
    assert read.facts[read.names[0]]["model"] == "google/gemma-2-2b"
    assert server.gets == ["layer_20/width_16k/average_l0_71/params.npz"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = exchange.read(source, tmp_path / "again", (), Ends(), silent)
    assert offline.names == read.names, "what was fetched is read offline"
    with pytest.raises(NotFound, match="was not fetched before; unset HF_HUB_OFFLINE"):
        exchange.read("hf://google/other", tmp_path / "third", (), Ends(), silent)


def test_a_repository_of_many_files_is_not_fetched_unasked(server: Hub, tmp_path: Path):
    names = [f"layer_{n}/width_16k/average_l0_71/params.npz" for n in range(9)]
    server.repositories["models/google/gemma-scope-2b-pt-res"] = dict.fromkeys(names, b"")
    source = "hf://google/gemma-scope-2b-pt-res"
    with pytest.raises(ConfigError, match=r"holds 9 files of weights; choose, such as .*average_l"):
        exchange.read(source, tmp_path / "suite", (), Ends(), silent)
    assert server.gets == []


def test_json_beside_and_above_the_weights_comes_with_them(server: Hub, tmp_path: Path):
    data = Path(__file__).parent / "data/saelens/jumprelu"
    server.repositories["models/me/theirs"] = {
        "a/cfg.json": (data / "cfg.json").read_bytes(),
        "a/sae_weights.safetensors": (data / "sae_weights.safetensors").read_bytes(),
        "config.json": json.dumps({}).encode(),
        "b/unrelated.json": b"{}",
    }
    read = exchange.read("hf://me/theirs", tmp_path / "suite", (), Ends(), silent)
    assert read.names == ("resid_post.1/a",)
    assert "b/unrelated.json" not in server.gets


def test_a_manifest_that_names_files_elsewhere_is_refused(
    server: Hub, suite: Suite, tmp_path: Path
):
    push(suite)
    manifest = suite.manifest
    record = next(iter(manifest.files.values()))
    evil = tmp_path / "evil"
    files.seal_records(evil, "suite", {}, {}, {"saes": []}, {"../escape": record})
    server.repositories["models/me/evil"] = {
        "manifest.json": (evil / "manifest.json").read_bytes(),
        "../escape": b"x",
    }
    with pytest.raises(Corrupt, match="leads out of its folder"):
        hub.pull("hf://me/evil", tmp_path / "down/in", None)
    assert not (tmp_path / "down/escape").exists()
