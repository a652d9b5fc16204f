"""Loading: what a Model is, and a sentence for each way in which it can fail."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from panscope.errors import ConfigError, Corrupt, NotFound, PanscopeError, Unsupported
from panscope.model import load
from panscope.model.load import Model
from panscope.sites import Site, all_sites

TINY_SITES = all_sites(3)


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to damage."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "copy"))


def load_cpu(folder: Path, **changes: str) -> Model:
    return load.load(load.Config(name=str(folder), device="cpu", **changes))


def edit_json(path: Path, edit: Callable[[dict], object]) -> None:
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))


def test_a_model_is_frozen_and_attends_eagerly(tiny_model: Model):
    assert not tiny_model.lm.training
    assert not any(weight.requires_grad for weight in tiny_model.lm.parameters())
    assert tiny_model.lm.config._attn_implementation == "eager"
    assert tiny_model.lm.dtype == torch.float32
    assert (tiny_model.n_layers, tiny_model.d_model, tiny_model.n_vocab) == (3, 32, 4096)


def test_sizes_at_sites(tiny_model: Model):
    sizes = {str(site): tiny_model.d_at(site) for site in TINY_SITES}
    assert sizes.pop("logits") == 4096
    assert set(sizes.values()) == {32}  # 4 heads of 8 are 32 too


def test_heads_may_be_wider_than_the_stream(folder: Path):
    config = transformers.AutoConfig.from_pretrained(folder)
    config.head_dim = 16
    transformers.Gemma2ForCausalLM(config).save_pretrained(folder)
    assert load_cpu(folder).d_at(Site("attn_z", 0)) == 64


def test_heads_that_do_not_divide_a_vector_are_none(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
):
    assert tiny_model.heads_at(Site("attn_z", 0)) == 4
    monkeypatch.setattr(tiny_model.lm.config, "num_attention_heads", 5)
    assert tiny_model.heads_at(Site("attn_z", 0)) == 0


def test_text_begins_with_bos_and_cannot_forge_one(tiny_model: Model):
    ids = tiny_model.encode("Hello <bos> there")
    assert ids[0] == tiny_model.bos_id == 2
    assert not set(ids[1:]) & tiny_model.special_ids
    assert tiny_model.tokenizer.decode(ids[1:]) == "Hello <bos> there"
    assert tiny_model.special_ids == {0, 1, 2}


def test_pieces_join_to_the_text(tiny_model: Model):
    text = "The lamp, the table:\n    and 2.4 percent."
    pieces = tiny_model.pieces()
    assert len(pieces) == tiny_model.n_vocab and all(pieces)
    assert "".join(pieces[i] for i in tiny_model.encode(text)[1:]) == text


def test_parts_of_characters_are_shown_as_bytes(tiny_model: Model):
    pieces, ids = tiny_model.pieces(), tiny_model.encode("𓀀")[1:]
    shown = "".join(pieces[i] for i in ids)
    assert shown.replace("><", " ") == f"<{'𓀀'.encode().hex(' ').upper()}>"
    assert pieces[tiny_model.bos_id] == "<bos>"


def test_logit_directions_give_the_logits(tiny_model: Model):
    """With the norm's division put back, and the soft-cap, they are the model's logits."""
    ids = torch.tensor([tiny_model.encode("the old lamp")])
    stream = {}
    norm = tiny_model.lm.model.norm
    hook = norm.register_forward_pre_hook(lambda _, args: stream.update(x=args[0]))
    with torch.no_grad():
        logits = tiny_model.lm(ids).logits
    hook.remove()
    x = stream["x"] * torch.rsqrt(stream["x"].square().mean(-1, keepdim=True) + norm.eps)
    raw = x @ tiny_model.logit_directions()
    torch.testing.assert_close(30 * torch.tanh(raw / 30), logits, rtol=1e-4, atol=1e-4)


def test_directions_of_heads_go_through_the_output_projection(tiny_model: Model):
    layer = tiny_model.lm.model.layers[1]
    z = torch.randn(5, 32)
    added = layer.self_attn.o_proj(z) * (1 + layer.post_attention_layernorm.weight)
    effect = added @ tiny_model.to_logits(Site("resid_post", 1))
    torch.testing.assert_close(z @ tiny_model.to_logits(Site("attn_z", 1)), effect)
    assert torch.equal(tiny_model.to_logits(Site("mlp_out", 1)), tiny_model.logit_directions())


def test_the_digest_names_weights_configuration_tokenizer_and_dtype(folder: Path):
    before = load_cpu(folder).digest
    assert load_cpu(folder).digest == before
    moved = Path(shutil.move(folder, folder.with_name("moved")))
    assert load_cpu(moved).digest == before
    assert load_cpu(moved, dtype="bfloat16").digest != before
    edit_json(moved / "config.json", lambda tree: tree.update(attn_logit_softcapping=49.0))
    assert (changed := load_cpu(moved).digest) != before
    weights = load_file(moved / "model.safetensors")
    weights["model.norm.weight"][3] += 1e-3
    save_file(weights, moved / "model.safetensors", {"format": "pt"})
    assert load_cpu(moved).digest not in (before, changed)


def test_the_packaged_model_loads():
    model = load.load(load.Config(device="cpu"))
    assert model.name == "pocket"
    assert (model.n_layers, model.d_model, model.n_vocab) == (4, 256, 4096)
    assert model.d_at(Site("attn_z", 3)) == 256


def test_loading_prints_nothing(tiny_model_folder: Path, capfd: pytest.CaptureFixture[str]):
    has_bars = transformers.logging.is_progress_bar_enabled()
    load_cpu(tiny_model_folder)
    assert capfd.readouterr() == ("", "")
    assert transformers.logging.is_progress_bar_enabled() == has_bars


def test_sharded_weights_load(folder: Path, tiny_model: Model):
    (folder / "model.safetensors").unlink()
    tiny_model.lm.save_pretrained(folder, max_shard_size="200KB")
    assert not (folder / "model.safetensors").exists()
    assert load_cpu(folder).digest == tiny_model.digest


# ---- what a user can get wrong


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(NotFound, match=f"its folder has no {name}; save the model there again"):
        load_cpu(folder)


def test_a_missing_file_of_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("panscope.model.folder.pocket_file", lambda name: tmp_path / name)
    with pytest.raises(NotFound, match=r"model pocket: .*model\.safetensors; reinstall panscope"):
        load.load(load.Config(device="cpu"))


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "no such name", ""])
def test_a_folder_that_is_not_there(name: str):
    with pytest.raises(NotFound, match=f"model {name}: no such folder; give a model's folder"):
        load.load(load.Config(name=name))


def test_a_file_is_not_a_folder(folder: Path):
    with pytest.raises(NotFound, match="no such folder"):
        load_cpu(folder / "config.json")


def test_a_hub_id_without_network():
    with pytest.raises(NotFound, match=r"model nobody/nothing: cannot be loaded .*the network"):
        load.load(load.Config(name="nobody/nothing"))


def test_another_architecture_than_that_of_the_weights(folder: Path):
    edit_json(folder / "config.json", lambda tree: tree.update(model_type="mamba"))
    with pytest.raises(Unsupported, match=r"cannot be loaded .*check that the folder holds one wh"):
        load_cpu(folder)


def test_attention_is_the_architectures_or_what_is_asked_for(tiny_model_folder: Path):
    def loaded(attention: Literal["auto", "eager", "sdpa"]) -> Model:
        config = load.Config(name=str(tiny_model_folder), device="cpu", attention=attention)
        return load.load(config)

    assert loaded("auto").lm.config._attn_implementation == "eager"
    assert loaded("auto").digest == loaded("eager").digest
    with pytest.raises(Unsupported, match="only the eager body has the soft-cap"):
        loaded("sdpa")


def test_code_that_comes_with_a_model_is_not_run(folder: Path):
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    auto_map = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": "evil.T"}
    for name in ("config.json", "tokenizer_config.json"):
        edit_json(folder / name, lambda tree: tree.update(auto_map=auto_map))
    assert load_cpu(folder).n_layers == 3


def test_pickled_weights_are_not_read(folder: Path):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(NotFound, match=r"no model\.safetensors"):
        load_cpu(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", ""])
def test_a_broken_configuration(folder: Path, text: str):
    (folder / "config.json").write_text(text)
    with pytest.raises(PanscopeError, match=r"model .*copy: "):
        load_cpu(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "", '{"added_tokens": [], "model": {}}'])
def test_a_broken_tokenizer(folder: Path, text: str):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(PanscopeError, match=r"model .*copy: "):
        load_cpu(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights(folder: Path, share: float):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(Corrupt, match="its weights are damaged"):
        load_cpu(folder)


@pytest.mark.parametrize("at", [0, 7, 8, 40, 300, 700])
def test_a_flipped_bit_in_the_header_of_the_weights(folder: Path, at: int):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)
    with pytest.raises(PanscopeError, match=r"model .*copy: "):
        load_cpu(folder)


def test_a_flipped_bit_that_makes_a_weight_infinite(folder: Path):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    (header,) = struct.unpack("<Q", data[:8])
    data[8 + header : 8 + header + 4] = struct.pack("<f", float("inf"))
    path.write_bytes(data)
    with pytest.raises(Corrupt, match="holds infinite or undefined numbers"):
        load_cpu(folder)


def test_a_weight_that_is_missing_is_not_made_up(folder: Path):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(Corrupt, match=r"1 weights are missing, first model\.layers\.1\.mlp\.up"):
        load_cpu(folder)


def test_a_weight_of_another_shape(folder: Path):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.zeros(33)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(Unsupported, match=r"cannot be loaded"):
        load_cpu(folder)


def test_a_tokenizer_larger_than_the_model(folder: Path):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    extra = {"id": 4096, "content": "<more>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer["added_tokens"].append(extra | flags)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match="has token 4096, the model embeds 0 to 4095; give the"):
        load_cpu(folder)


def test_a_tokenizer_without_bos(folder: Path):
    edit_json(folder / "tokenizer_config.json", lambda tree: tree.pop("bos_token"))
    model = load_cpu(folder)  # its texts begin with what ends one, as Qwen's do
    assert model.bos_id == model.tokenizer.token_to_id("<eos>")
    edit_json(folder / "tokenizer_config.json", lambda tree: tree.pop("eos_token"))
    with pytest.raises(ConfigError, match="its tokenizer has no BOS and no EOS token; give the"):
        load_cpu(folder)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "meta", ""])
def test_a_device_that_is_not_there(tiny_model_folder: Path, device: str):
    with pytest.raises(Unsupported, match=f"device {device}: is not on this machine; use auto or"):
        load.load(load.Config(name=str(tiny_model_folder), device=device))
