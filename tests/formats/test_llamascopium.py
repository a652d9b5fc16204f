"""Llamascopium's dictionaries against their own formula, for each kind, activation and norm."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.formats.conftest import WIDTH, D, Taken
from torch import Tensor

from panscope import splice
from panscope.errors import PanscopeError, Unsupported
from panscope.sites import Site

N, K = 3, 2
Arrays = dict[str, Tensor]
NORMS = (1.5, 0.7, 2.5)
HOOKS = {
    "in": [f"blocks.{layer}.ln2.hook_normalized" for layer in range(N)],
    "out": [f"blocks.{layer}.hook_mlp_out" for layer in range(N)],
}
CASES = [("relu", "inference", True), ("jumprelu", "dataset-wise", True)]
CASES += [("jumprelu", "inference", False), ("topk", "dataset-wise", True)]


def written(folder: Path, kind: str, arrays: Arrays, **config: Any) -> Path:
    """Write a dictionary of random weights as the library saves it."""
    folder.mkdir(parents=True)
    every = {**arrays}
    for hook, norm in zip(HOOKS["in"] + HOOKS["out"], NORMS + NORMS[::-1], strict=True):
        every[f"dataset_average_activation_norm.{hook}"] = torch.tensor(norm)
    save_file(every, folder / "sae_weights.safetensors")
    described = {"sae_type": kind, "d_model": D, "top_k": K, **config}
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "lm_config.json").write_text(json.dumps({"model_name": "Qwen/Qwen3-1.7B"}))
    return folder


def scale(hook: str, how: str) -> float:
    norms = dict(zip(HOOKS["in"] + HOOKS["out"], NORMS + NORMS[::-1], strict=True))
    return math.sqrt(D) / norms[hook] if how == "dataset-wise" else 1.0


def fired(z: Tensor, norm: Tensor, act: str, threshold: Tensor) -> Tensor:
    """The library's: compared by z times the norm, given back without it."""
    h = z * norm
    if act == "topk":
        kept = h.relu().topk(K, dim=-1)
        return torch.zeros_like(h).scatter(-1, kept.indices, kept.values) / norm
    return h * (h > (threshold if act == "jumprelu" else 0)) / norm


def settings(act: str, how: str, by_norm: bool) -> dict[str, Any]:
    return {"act_fn": act, "norm_activation": how, "sparsity_include_decoder_norm": by_norm}


@pytest.mark.parametrize(("act", "how", "by_norm"), CASES)
def test_a_transcoder(act: str, how: str, by_norm: bool, tmp_path: Path, taken: Taken):
    shapes = {"W_E": (D, WIDTH), "b_E": (WIDTH,), "W_D": (WIDTH, D), "b_D": (D,)}
    a = {name: torch.randn(shape) for name, shape in shapes.items()}
    a["activation_function.log_jumprelu_threshold"] = torch.randn(WIDTH) / 2
    hooks = {"hook_point_in": HOOKS["in"][1], "hook_point_out": HOOKS["out"][1]}
    suite = taken(written(tmp_path / "L1", "sae", a, **hooks, **settings(act, how, by_norm)))
    sae, fact = suite.load(suite.names[0]), suite.facts[suite.names[0]]
    assert (fact["reads"], fact["writes"]) == (["mlp_in_unit.1"], ["mlp_out.1"])
    assert (fact["architecture"], fact["model"]) == (act, "Qwen/Qwen3-1.7B")
    x, norm = torch.randn(30, D), a["W_D"].norm(dim=1) if by_norm else torch.ones(WIDTH)
    threshold = a["activation_function.log_jumprelu_threshold"].exp()
    f = fired(x * scale(HOOKS["in"][1], how) @ a["W_E"] + a["b_E"], norm, act, threshold)
    expected = (f @ a["W_D"] + a["b_D"]) / scale(HOOKS["out"][1], how)
    encoded = sae.encode(x) / (norm if act == "topk" else 1)
    torch.testing.assert_close(encoded, f, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae.rebuild(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("act", "how", "by_norm"), CASES)
def test_a_crosscoder_is_active_site_by_site(
    act: str, how: str, by_norm: bool, tmp_path: Path, taken: Taken
):
    shapes = {"W_E": (N, D, WIDTH), "b_E": (N, WIDTH), "W_D": (N, WIDTH, D), "b_D": (N, D)}
    a = {name: torch.randn(shape) for name, shape in shapes.items()}
    a["activation_function.log_jumprelu_threshold"] = torch.randn(WIDTH)
    config = {"hook_points": HOOKS["in"], **settings(act, how, by_norm)}
    suite = taken(written(tmp_path / "cc", "crosscoder", a, **config))
    x = torch.randn(30, N, D)
    scales = torch.tensor([scale(hook, how) for hook in HOOKS["in"]])[:, None]
    z = (torch.einsum("tnd,ndf->tnf", x * scales, a["W_E"]) + a["b_E"]).sum(1)
    norm = a["W_D"].norm(dim=2) if by_norm else torch.ones(N, WIDTH)
    threshold = a["activation_function.log_jumprelu_threshold"].exp()
    f = fired(z[:, None].expand(30, N, WIDTH), norm, act, threshold)
    expected = (torch.einsum("tnf,nfd->tnd", f, a["W_D"]) + a["b_D"]) / scales
    assert suite.names == tuple(f"mlp_in_unit.{site}/cc" for site in range(N))
    for site, name in enumerate(suite.names):
        sae = suite.load(name)
        assert [str(read) for read in sae.reads] == [f"mlp_in_unit.{n}" for n in range(N)]
        assert "part_of" not in suite.facts[name]
        torch.testing.assert_close(
            sae.rebuild(x.flatten(1)), expected[:, site], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(("act", "how", "by_norm"), CASES)
def test_the_layers_of_a_cross_layer_transcoder_add_up(
    act: str, how: str, by_norm: bool, tmp_path: Path, taken: Taken
):
    a = {"W_E": torch.randn(N, D, WIDTH), "b_E": torch.randn(N, WIDTH)}
    for to in range(N):
        a |= {f"W_D.{to}": torch.randn(to + 1, WIDTH, D), f"b_D.{to}": torch.randn(D)}
    a["activation_function.log_jumprelu_threshold"] = torch.randn(N, WIDTH)
    hooks = {"hook_points_in": HOOKS["in"], "hook_points_out": HOOKS["out"]}
    suite = taken(written(tmp_path / "clt", "clt", a, **hooks, **settings(act, how, by_norm)))
    x = torch.randn(30, N, D)
    scales = torch.tensor([scale(hook, how) for hook in HOOKS["in"]])[:, None]
    z = torch.einsum("tnd,ndf->tnf", x * scales, a["W_E"]) + a["b_E"]
    squares = [sum(a[f"W_D.{to}"][own].square().sum(1) for to in range(own, N)) for own in range(N)]
    norm = torch.stack(squares).sqrt() if by_norm else torch.ones(N, WIDTH)
    threshold = a["activation_function.log_jumprelu_threshold"].exp()
    f = fired(z, norm, act, threshold)
    sums = splice.Sums(lambda site: D)
    for own, name in enumerate(suite.names):
        assert name == f"mlp_out.{own}/clt_from_{own}"
        sums.add_(sae := suite.load(name), sae.rebuild(x[:, own]))
    for to in range(N):
        expected = torch.einsum("tnf,nfd->td", f[:, : to + 1], a[f"W_D.{to}"]) + a[f"b_D.{to}"]
        expected /= scale(HOOKS["out"][to], how)
        rebuilt = sums.at([Site("mlp_out", to)])
        torch.testing.assert_close(rebuilt, expected, rtol=1e-4, atol=1e-4)


REFUSED = {
    "lorsa": ({"sae_type": "lorsa"}, "its latents attend"),
    "molt": ({"sae_type": "molt"}, "switch matrices on"),
    "kind": ({"sae_type": ["sae"]}, "sae_type: is"),
    "token": ({"norm_activation": "token-wise"}, "differs from token to token"),
    "batch": ({"act_fn": "batchtopk"}, "act_fn: is 'batchtopk'; did you mean topk"),
    "gate": ({"use_glu_encoder": True}, "gates each latent by a second encoder"),
    "hooks": ({"sae_type": "clt", "hook_points_in": "x"}, "is no list of names"),
    "layers": ({"sae_type": "clt", "hook_points_out": HOOKS["out"][1:]}, "has 2 names for 3"),
    "norm": ({"hook_point_in": "blocks.9.hook_mlp_out"}, r"blocks\.9\.hook_mlp_out: is missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_sae_holds_is_refused_with_the_reason(case: str, tmp_path: Path, taken: Taken):
    changed, why = REFUSED[case]
    a = {"W_E": torch.randn(D, WIDTH), "b_E": torch.randn(WIDTH), "W_D": torch.randn(WIDTH, D)}
    config = {"hook_point_in": HOOKS["in"][0], "act_fn": "relu", "sae_type": "sae"}
    config |= {"hook_points_in": HOOKS["in"], **changed}
    folder = written(tmp_path / "L0", config.pop("sae_type"), a, **config)
    with pytest.raises(PanscopeError, match=why) as raised:
        taken(folder)
    if case in ("lorsa", "molt", "token", "gate"):
        assert isinstance(raised.value, Unsupported)
