"""Formats without an installable peer: files written here from their description, and read.

Gemma Scope 1 and 2 (the tutorials' arrays and forward), Llama Scope (SAELens' loader), OpenAI.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.formats.conftest import WIDTH, D, Taken

from panscope import splice
from panscope.errors import ConfigError, NotFound, PanscopeError, Unsupported
from panscope.events import Event, Warned
from panscope.sites import Site
from panscope.stages import exchange
from panscope.stages.exchange import Ends
from panscope.stages.exchange.run import chosen

Arrays = dict[str, torch.Tensor]
X = torch.randn(40, D, generator=torch.Generator().manual_seed(7))


def drawn(d_out: int = D) -> Arrays:
    shapes = {"W_enc": (D, WIDTH), "W_dec": (WIDTH, d_out), "b_enc": (WIDTH,), "b_dec": (d_out,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()} | {
        "threshold": torch.rand(WIDTH)
    }


def forward(a: Arrays, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The released tutorial's: strict >, nothing subtracted from the input."""
    z = x @ a["W_enc"] + a["b_enc"]
    f = (z > a["threshold"]) * z.relu()
    return f, f @ a["W_dec"] + a["b_dec"]


def save_npz(folder: Path, arrays: Arrays) -> None:
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{name: array.numpy() for name, array in arrays.items()})


SITES = {
    "gemma-scope-2b-pt-res": ("resid_post.20", "resid_post.20"),
    "gemma-scope-2b-pt-mlp": ("mlp_out.20", "mlp_out.20"),
    "gemma-scope-9b-it-att": ("attn_z.20", "attn_z.20"),
    "gemma-scope-2b-pt-transcoders": ("mlp_in_unit.20", "mlp_out.20"),
}


@pytest.mark.parametrize("repository", SITES)
def test_gemma_scope(repository: str, tmp_path: Path, taken: Taken):
    arrays = drawn()
    save_npz(tmp_path / repository / "layer_20/width_16k/average_l0_71", arrays)
    suite = taken(tmp_path / repository)
    reads, writes = SITES[repository]
    assert suite.names == (f"{writes}/width_16k_average_l0_71",)
    sae, fact = suite.load(suite.names[0]), suite.facts[suite.names[0]]
    assert (str(sae.reads[0]), str(sae.writes[0])) == (reads, writes)
    assert fact["l0"] == 71
    it = "-it" if "9b-it" in repository else ""
    assert fact["model"] == f"google/gemma-2-{'9b' if it else '2b'}{it}"
    f, x_hat = forward(arrays, X)
    assert torch.equal(sae.encode(X) > 0, f > 0)
    torch.testing.assert_close(sae.encode(X), f, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sae.rebuild(X), x_hat, rtol=1e-6, atol=2e-6)


def test_a_latent_at_its_threshold_is_not_active(tmp_path: Path, taken: Taken):
    arrays = drawn()
    arrays["W_enc"], arrays["b_enc"] = torch.eye(D, WIDTH), torch.zeros(WIDTH)
    arrays["threshold"] = torch.full((WIDTH,), 0.5)
    save_npz(tmp_path / "x-res/layer_0/width_10/average_l0_1", arrays)
    suite = taken(tmp_path / "x-res")
    x = torch.tensor([[0.5, math.nextafter(0.5, 1), 0.5 + 1e-7, 0.49, -1.0, 1.0]])
    assert (suite.load(suite.names[0]).encode(x)[0, :D] > 0).tolist() == [
        False,
        False,  # in float32 that is 0.5
        True,
        False,
        False,
        True,
    ]


def test_a_negative_threshold_still_cuts_off_at_zero(tmp_path: Path, taken: Taken):
    arrays = drawn()
    arrays["threshold"] = torch.full((WIDTH,), -0.5)
    save_npz(tmp_path / "x-res/layer_0/width_10/average_l0_1", arrays)
    suite = taken(tmp_path / "x-res")
    f, _ = forward(arrays, X)
    torch.testing.assert_close(suite.load(suite.names[0]).encode(X), f)


def test_saes_of_the_embedding_read_it_scaled(tmp_path: Path, taken: Taken):
    arrays = drawn()
    save_npz(tmp_path / "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_21", arrays)
    suite = taken(tmp_path / "gemma-scope-2b-pt-res")
    assert suite.names == ("embed/embedding_width_4k_average_l0_21",)
    sae = suite.load(suite.names[0])
    f, x_hat = forward(arrays, X)
    torch.testing.assert_close(sae.encode(math.sqrt(D) * X), f, rtol=1e-5, atol=1e-5)
    scaled = math.sqrt(D) * x_hat
    torch.testing.assert_close(sae.rebuild(math.sqrt(D) * X), scaled, rtol=1e-5, atol=1e-5)


def test_canonical_is_the_l0_nearest_to_100(tmp_path: Path, taken: Taken):
    for layer, l0s in {12: (22, 41, 82, 176, 445), 20: (71, 139)}.items():
        for l0 in l0s:
            save_npz(tmp_path / f"x-res/layer_{layer}/width_16k/average_l0_{l0}", drawn())
    suite = taken(tmp_path / "x-res", "layer_*/width_16k/canonical")
    assert [name.rpartition("_")[2] for name in suite.names] == ["82", "71"]


def test_what_is_asked_for_and_not_there_is_answered_with_the_nearest():
    names = ["layer_20/width_16k/average_l0_71/params.npz"]
    with pytest.raises(NotFound, match="did you mean layer_20/width_16k/average_l0_71"):
        chosen("x", names, ["layer_20/width_16k/average_l0_70"])


def test_a_file_that_does_not_say_its_site_takes_the_users(tmp_path: Path, taken: Taken):
    save_npz(tmp_path / "some/layer_3/width_10", drawn())
    with pytest.raises(NotFound, match=r"params\.npz: does not say what its Sae reads; say it"):
        taken(tmp_path / "some")
    assert taken(tmp_path / "some", reads="mlp_out").names == ("mlp_out.3/width_10",)


def gemma_scope_2(folder: Path, affine: bool, **changed: object) -> tuple[Arrays, torch.Tensor]:
    arrays, skip = drawn(D + 2), torch.randn(D, D + 2)
    folder.mkdir(parents=True)
    lower = {name.lower(): array for name, array in arrays.items()}
    lower |= {"affine_skip_connection": skip} if affine else {}
    save_file(lower, folder / "params.safetensors")
    layer = "model.layers.17."
    config = {
        "hf_hook_point_in": f"{layer}pre_feedforward_layernorm.output",
        "hf_hook_point_out": f"{layer}post_feedforward_layernorm.output",
        "width": WIDTH,
        "model_name": "gemma-v3-1b-pt",
        "architecture": "jump_relu",
        "l0": 20,
        "affine_connection": affine,
        "type": "transcoder",
    }
    (folder / "config.json").write_text(json.dumps(config | changed))
    return arrays, skip if affine else torch.zeros(D, D + 2)


@pytest.mark.parametrize("affine", [False, True])
def test_a_transcoder_of_gemma_scope_2(affine: bool, tmp_path: Path, taken: Taken):
    place = tmp_path / "repo/transcoder/layer_17_width_16k_l0_small"
    arrays, skip = gemma_scope_2(place, affine)
    suite = taken(tmp_path / "repo")
    sae, fact = suite.load(suite.names[0]), suite.facts[suite.names[0]]
    assert (str(sae.reads[0]), str(sae.writes[0])) == ("mlp_in.17", "mlp_out.17")
    assert fact["kind"] == ("skip_transcoder" if affine else "transcoder")
    assert (fact["model"], fact["target_l0"]) == ("google/gemma-3-1b-pt", 20)
    expected = forward(arrays, X)[1] + X @ skip
    torch.testing.assert_close(sae.rebuild(X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "site"),
    [
        ("model.layers.13.output", "resid_post.13"),
        ("model.layers.13.self_attn.o_proj.input", "attn_z.13"),
        ("model.language_model.layers.13.post_feedforward_layernorm.output", "mlp_out.13"),
        ("model.layers.13.mlp.down_proj.input", "model.layers.13.mlp.down_proj.input"),
    ],
)
def test_the_sites_of_gemma_scope_2(module: str, site: str, tmp_path: Path, taken: Taken):
    ends = {"hf_hook_point_in": module, "hf_hook_point_out": module, "type": "sae"}
    gemma_scope_2(tmp_path / "repo/x/layer_13_width_16k_l0_small", False, **ends)
    suite = taken(tmp_path / "repo")
    assert suite.facts[suite.names[0]]["reads"] == [site]


def crossing(folder: Path, kind: str, layers: str, n: int, is_causal: bool) -> dict[str, Arrays]:
    """Write a file a layer, as the release has them; return its arrays, stacked."""
    shapes = {"w_enc": (D, WIDTH), "b_enc": (WIDTH,), "w_dec": (WIDTH, n, D), "b_dec": (D,)}
    shapes |= {"affine_skip_connection": (D, D)} if kind == "clt" else {}
    files = []
    folder.mkdir(parents=True)
    for own in range(n):
        arrays = {name: torch.randn(shape) for name, shape in shapes.items()}
        arrays["threshold"] = torch.rand(WIDTH)
        if is_causal:
            arrays["w_dec"][:, :own] = 0
        save_file(arrays, folder / f"params_layer_{own}.safetensors")
        files.append(arrays)
    ends = ("output",) * 2
    if kind == "clt":
        ends = ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output")
    hooks = [f"model.layers.{{{layers}}}.{end}" for end in ends]
    config = {"hf_hook_point_in": hooks[0], "hf_hook_point_out": hooks[1], "type": kind}
    config |= {"model_name": "google/gemma-3-1b-pt", "architecture": "jump_relu", "l0": 50}
    (folder / "config.json").write_text(json.dumps(config))
    return {name: torch.stack([arrays[name] for arrays in files]) for name in files[0]}


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("kind", ["crosscoder", "clt"])
def test_what_crosses_layers_adds_up(kind: str, is_causal: bool, tmp_path: Path, taken: Taken):
    """The formula over all layers at once, and the sum of the parts."""
    layers, n = ("7,13,17", 3) if kind == "crosscoder" else ("all", 4)
    a = crossing(tmp_path / f"repo/{kind}/width_40_l0_medium", kind, layers, n, is_causal)
    suite = taken(tmp_path / "repo")
    x = torch.randn(30, n, D)
    z = torch.einsum("tld,ldf->tlf", x, a["w_enc"]) + a["b_enc"]
    f = (z > a["threshold"]) * z.relu()
    expected = torch.einsum("tlf,lfod->tod", f, a["w_dec"]) + a["b_dec"]
    if kind == "clt":
        expected += torch.einsum("tld,lde->tle", x, a["affine_skip_connection"])
    numbers = [7, 13, 17] if kind == "crosscoder" else list(range(n))
    read, written = ("resid_post",) * 2 if kind == "crosscoder" else ("mlp_in", "mlp_out")
    sums = splice.Sums(lambda site: D)
    assert len(suite.names) == n
    for own, number in enumerate(numbers):
        first = numbers[own if is_causal else 0]
        name = f"{written}.{first}/{kind}_width_40_l0_medium_from_{number}"
        sae, fact = suite.load(name), suite.facts[name]
        later = numbers[own:] if is_causal else numbers
        assert fact["reads"] == [f"{read}.{number}"]
        assert fact["writes"] == [f"{written}.{layer}" for layer in later]
        assert fact["part_of"] == f"{kind}/width_40_l0_medium"
        torch.testing.assert_close(sae.encode(x[:, own]), f[:, own], rtol=1e-5, atol=1e-5)
        sums.add_(sae, sae.rebuild(x[:, own]))
    rebuilt = sums.at([Site(written, number) for number in numbers])
    torch.testing.assert_close(rebuilt, expected.flatten(1), rtol=1e-4, atol=1e-4)


def test_some_parts_are_less_than_all(tmp_path: Path):
    crossing(tmp_path / "repo/clt/width_40", "clt", "all", 3, True)
    said: list[Event] = []
    only = ("clt/width_40/params_layer_1*",)
    exchange.read(str(tmp_path / "repo"), tmp_path / "suite", only, Ends(), said.append)
    (warned,) = (event for event in said if isinstance(event, Warned))
    assert warned.text.startswith("1 of the 3 parts of clt/width_40 were read")


BAD_PARTS = {
    "hook": ({"hf_hook_point_in": "model.layers.3.output"}, "does not say what it reads and wri"),
    "layers": ({"hf_hook_point_out": "model.layers.{1,2}.output"}, "writes 3 layers where .* 2"),
    "type": ({"type": "molt"}, "is 'molt'; known: sae"),
}


@pytest.mark.parametrize("case", BAD_PARTS)
def test_parts_that_do_not_fit_are_refused(case: str, tmp_path: Path, taken: Taken):
    folder, (changed, why) = tmp_path / "repo/clt/width_40", BAD_PARTS[case]
    crossing(folder, "clt", "all", 3, True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(PanscopeError, match=why):
        taken(tmp_path / "repo")


def test_llama_scope(tmp_path: Path, taken: Taken):
    """As SAELens reads it: s into the weights, the threshold times s; bfloat16 widened."""
    arrays = {name: array.bfloat16() for name, array in drawn().items()}
    folder = tmp_path / "L15R-8x"
    (folder / "checkpoints").mkdir(parents=True)
    file = {"encoder.weight": arrays["W_enc"].T, "encoder.bias": arrays["b_enc"]}
    file |= {"decoder.weight": arrays["W_dec"].T, "decoder.bias": arrays["b_dec"]}
    contiguous = {name: array.contiguous() for name, array in file.items()}
    save_file(contiguous, folder / "checkpoints/final.safetensors")
    config = {"d_model": D, "d_sae": WIDTH, "hook_point_in": "blocks.15.hook_resid_post"}
    config |= {"jump_relu_threshold": 0.4, "dataset_average_activation_norm": {"in": 1.7}}
    (folder / "hyperparams.json").write_text(json.dumps(config))
    suite = taken(folder)
    sae, s = suite.load(suite.names[0]), math.sqrt(D) / 1.7
    wide = {name: array.float() for name, array in arrays.items()}
    f, x_hat = forward({**wide, "threshold": torch.full((WIDTH,), 0.4 * s)}, s * X)
    torch.testing.assert_close(sae.encode(X), f, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae.rebuild(X), x_hat / s, rtol=1e-5, atol=1e-5)
    assert sae.reads[0].layer == 15


def openai(folder: Path, activation: str, bias: float = 1.0) -> Arrays:
    arrays = drawn()
    arrays |= {name: bias * arrays[name] for name in ("b_enc", "b_dec")}
    tree: dict[str, object] = {"pre_bias": arrays["b_dec"], "latent_bias": arrays["b_enc"]}
    tree |= {"encoder.weight": arrays["W_enc"].T, "decoder.weight": arrays["W_dec"].T}
    tree |= {"activation": activation, "activation_state_dict": {"k": 3}}
    folder.mkdir()
    torch.save(tree, folder / "8.pt")
    return arrays


def test_openai(tmp_path: Path, taken: Taken):
    a = openai(tmp_path / "gpt2", "ReLU")
    suite = taken(tmp_path / "gpt2", reads="resid_mid.8")
    f = ((X - a["b_dec"]) @ a["W_enc"] + a["b_enc"]).relu()
    sae = suite.load("resid_mid.8/8")
    torch.testing.assert_close(sae.encode(X), f, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae.rebuild(X), f @ a["W_dec"] + a["b_dec"], rtol=1e-5, atol=1e-5)


def test_openais_normalisation_cancels_without_biases(tmp_path: Path, taken: Taken):
    a = openai(tmp_path / "gpt2", "TopK", bias=0.0)
    sae = taken(tmp_path / "gpt2", reads="resid_mid.8").load("resid_mid.8/8")
    mean, deviation = X.mean(1, keepdim=True), X.std(1, keepdim=True)
    z = (((X - mean) / deviation) @ a["W_enc"]).relu()
    f = torch.zeros_like(z).scatter(1, z.topk(3).indices, z.topk(3).values)
    torch.testing.assert_close(sae.encode(X), deviation * f, rtol=1e-5, atol=1e-5)
    x_hat = f @ a["W_dec"] * deviation + mean
    torch.testing.assert_close(sae.rebuild(X), x_hat, rtol=1e-5, atol=1e-5)


def test_openais_normalisation_with_biases_is_refused_with_the_reason(tmp_path: Path, taken: Taken):
    openai(tmp_path / "gpt2", "TopK")
    with pytest.raises(Unsupported, match="its encoder bias and decoder bias do not follow"):
        taken(tmp_path / "gpt2", reads="resid_mid.8")


def test_two_files_that_would_be_one_sae_are_refused(tmp_path: Path, taken: Taken):
    for name in ("a/b", "a_b"):
        save_npz(tmp_path / "x-res/layer_1" / name, drawn())
    with pytest.raises(ConfigError, match=r"would both be resid_post\.1/a_b"):
        taken(tmp_path / "x-res")
