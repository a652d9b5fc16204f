"""What we write we read again, what a format cannot hold is refused, and the peers agree.

With the peers' packages installed (`make peers`, or PANSCOPE_PEERS for another Python that has
them) they load what we wrote, and compute the same from it to 1e-6.
"""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.formats.conftest import D, Made, Taken, make_suite, random_sae

from panscope.errors import ConfigError, Incomplete, NotFound, Unsupported
from panscope.sae.sae import WEIGHTS, Sae
from panscope.stages import exchange

ROOT = Path(__file__).parents[2]
PEERS = Path(os.environ.get("PANSCOPE_PEERS", ROOT / ".peers/bin/python"))
NAME = "resid_post.1/w10_l0_3_s0"
FACTS = {"target_l0": 3.0, "model": "google/gemma-2-2b"}

CASES = {
    "saelens jumprelu": ("saelens", random_sae),
    "saelens standard": ("saelens", lambda: random_sae(thresholds=False)),
    "saelens topk": ("saelens", lambda: random_sae(thresholds=False, k=3)),
    "saelens transcoder": ("saelens", lambda: random_sae("mlp_in.1", "mlp_out.1")),
    "saelens skip": ("saelens", lambda: random_sae("mlp_in.1", "mlp_out.1", skips=True)),
    "saelens att": ("saelens", lambda: random_sae("attn_z.1")),
    "gemma_scope": ("gemma_scope", random_sae),
    "gemma_scope mlp": ("gemma_scope", lambda: random_sae("mlp_out.1")),
    "gemma_scope att": ("gemma_scope", lambda: random_sae("attn_z.1")),
    "gemma_scope transcoder": ("gemma_scope", lambda: random_sae("mlp_in_unit.1", "mlp_out.1")),
    "dictionary_learning": ("dictionary_learning", random_sae),
    "dictionary_learning topk": (
        "dictionary_learning",
        lambda: random_sae(thresholds=False, k=3),
    ),
    "sparsify": ("sparsify", lambda: random_sae(thresholds=False, k=3)),
    "sparsify mlp": ("sparsify", lambda: random_sae("mlp_out.1", thresholds=False, k=3)),
}


def same(ours: Sae, theirs: Sae) -> None:
    for name in WEIGHTS:
        torch.testing.assert_close(getattr(theirs, name), getattr(ours, name), rtol=1e-6, atol=1e-6)
    assert (ours.reads, ours.writes, ours.k) == (theirs.reads, theirs.writes, theirs.k)
    assert (ours.skip is None) == (theirs.skip is None)
    assert ours.skip is None or torch.equal(ours.skip, theirs.skip)


def weights_in(paths: list[Path]) -> Path:
    (path,) = (path for path in paths if path.suffix != ".json")
    return path


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_is_read_again(case: str, made: Made, taken: Taken, tmp_path: Path):
    form, make = CASES[case]
    sae = make()
    suite = made({f"{sae.writes[0]}/w10": sae}, **FACTS)
    exchange.write(suite.folder, form, tmp_path / "out", (), None)
    again = taken(tmp_path / "out")
    (name,) = again.names
    same(sae, again.load(name))
    assert again.facts[name]["format"] == form


@pytest.mark.parametrize("case", ["saelens jumprelu", "gemma_scope", "dictionary_learning"])
def test_thresholds_come_back_to_the_bit(case: str, made: Made, taken: Taken, tmp_path: Path):
    sae = random_sae()
    exchange.write(
        made({NAME: sae}, target_l0=3.0).folder, CASES[case][0], tmp_path / "out", (), None
    )
    again = taken(tmp_path / "out")
    read = again.load(again.names[0])
    assert all(torch.equal(getattr(read, name), getattr(sae, name)) for name in WEIGHTS)


@pytest.mark.slow
@pytest.mark.skipif(not PEERS.is_file(), reason="the peers are not installed: make peers")
@pytest.mark.parametrize("form", ["saelens", "gemma_scope", "dictionary_learning", "sparsify"])
def test_a_peer_computes_the_same_from_what_we_wrote(form: str, tmp_path: Path):
    x, saes = torch.randn(12, D), {}
    for case, (_, make) in CASES.items():
        if case.partition(" ")[0] == form:
            sae = make()
            suite = make_suite(tmp_path / case / "suite", {f"{sae.writes[0]}/w10": sae}, FACTS)
            weights = weights_in(
                exchange.write(suite.folder, form, tmp_path / case / "out", (), None)
            )
            shape = (12, 2, D // 2) if case == "saelens att" else (12, D)
            save_file({"x": x.view(shape)}, weights.parent / "x.safetensors")
            saes[weights.parent] = sae
    command = [PEERS, Path(__file__).parent / "peer_reads.py", form, *saes]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for folder, sae in saes.items():
        seen = load_file(folder / "seen.safetensors")
        torch.testing.assert_close(seen["f"], sae.encode(x), rtol=1e-6, atol=2e-6)
        rebuilt = seen["x_hat"].reshape(12, D)
        torch.testing.assert_close(rebuilt, sae.rebuild(x), rtol=1e-6, atol=5e-6)


REFUSED = {
    "gemma_scope": [
        (lambda: random_sae(thresholds=False, k=3), "keeps the 3 largest; gemma_scope holds"),
        (lambda: random_sae(skips=True), "has a skip connection"),
        (lambda: random_sae("resid_mid.1"), "of a site that gemma_scope does not have"),
    ],
    "dictionary_learning": [
        (lambda: random_sae("mlp_in.1", "mlp_out.1"), "is a transcoder"),
        (lambda: random_sae(k=3), "has thresholds"),
    ],
    "sparsify": [
        (random_sae, "has no k, and sparsify holds TopK alone"),
        (lambda: random_sae(k=3), "has thresholds"),
        (lambda: random_sae("attn_z.1", k=3, thresholds=False), "is no module's output"),
    ],
    "saelens": [
        (lambda: random_sae(k=3), "has thresholds"),
        (lambda: random_sae("mlp_in.1", "mlp_out.1", k=3, thresholds=False), "is a transcoder"),
        (lambda: random_sae("final_norm_in"), "has no name in TransformerLens"),
    ],
}


@pytest.mark.parametrize(
    ("form", "make", "why"), [(form, *case) for form, cases in REFUSED.items() for case in cases]
)
def test_what_a_format_cannot_hold_is_refused(
    form: str, make: object, why: str, made: Made, tmp_path: Path
):
    suite = made({NAME: make()}, target_l0=3.0)
    with pytest.raises(Unsupported, match=why):
        exchange.write(suite.folder, form, tmp_path / "out", (), None)
    assert not list(tmp_path.glob("*out*")), "something was left"


def test_an_export_needs_a_folder_of_its_own_a_known_format_and_for_gemma_scope_an_l0(
    made: Made, tmp_path: Path
):
    suite = made({NAME: random_sae()})
    with pytest.raises(ConfigError, match="did you mean saelens"):
        exchange.write(suite.folder, "saelen", tmp_path / "out", (), None)
    with pytest.raises(ConfigError, match="is there already"):
        exchange.write(suite.folder, "saelens", tmp_path, (), None)
    with pytest.raises(Incomplete, match="run panscope evaluate"):
        exchange.write(suite.folder, "gemma_scope", tmp_path / "out", (), None)
    with pytest.raises(NotFound, match="has nothing at 'resid_pre"):
        exchange.write(suite.folder, "saelens", tmp_path / "out", ("resid_pre.*",), None)


def test_the_model_is_what_the_runs_recipe_says(made: Made, tmp_path: Path, taken: Taken):
    (tmp_path / "recipe.json").write_text('{"model": {"name": "google/gemma-2-2b"}}')
    exchange.write(made({NAME: random_sae()}).folder, "saelens", tmp_path / "out", (), None)
    again = taken(tmp_path / "out")
    assert again.facts[again.names[0]]["model"] == "google/gemma-2-2b"
