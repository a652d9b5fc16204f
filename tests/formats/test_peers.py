"""What other packages wrote is read, and does here what it did there, to 1e-6.

The files are `make_fixtures.py`'s: random weights, saved and run by the packages themselves.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from panscope.events import Event, Warned
from panscope.sae.sae import Sae
from panscope.sae.suite import Suite
from panscope.stages import exchange
from panscope.stages.exchange import Ends

DATA = Path(__file__).parent / "data"
NOWHERE = Ends()


def taken(folder: Path, into: Path, ends: Ends = NOWHERE) -> Suite:
    return exchange.read(str(folder), into, (), ends, lambda event: None)


def only_sae(suite: Suite) -> tuple[Sae, Mapping[str, object]]:
    (name,) = suite.names
    return suite.load(name), suite.facts[name]


def check(sae: Sae, seen: Path) -> None:
    expected = load_file(seen / "seen.safetensors")
    x = expected["x"]
    torch.testing.assert_close(sae.encode(x), expected["f"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sae.rebuild(x), expected["x_hat"], rtol=1e-6, atol=2e-6)
    assert 0.1 < (expected["f"] > 0).float().mean() < 0.9, "a case that shows nothing"


SAELENS = {
    "standard": "relu",
    "topk": "topk",
    "topk_rescaled": "topk",
    "gated": "gated",
    "jumprelu": "jumprelu",
    "jumprelu_uncentred": "jumprelu",
    "batchtopk_checkpoint": "batch_topk",
    "flat_standard": "relu",
    "flat_topk": "topk",
    "hook_z": "jumprelu",
    "transcoder": "relu",
    "skiptranscoder": "relu",
    "jumprelutranscoder": "jumprelu",
    "jumpreluskiptranscoder": "jumprelu",
}


@pytest.mark.parametrize("case", SAELENS)
def test_saelens(case: str, tmp_path: Path):
    sae, fact = only_sae(taken(DATA / "saelens" / case, tmp_path / "suite"))
    check(sae, DATA / "saelens" / case)
    transcodes = "transcoder" in case
    site = "attn_z.1" if case == "hook_z" else "resid_post.1"
    assert fact["reads"] == (["mlp_in.1"] if transcodes else [site])
    assert fact["writes"] == (["mlp_out.1"] if transcodes else [site])
    assert (fact["architecture"], fact["model"]) == (SAELENS[case], "tiny")
    assert fact["kind"] == {"": "autoencoder", "transcoder": "transcoder"}.get(
        "transcoder" if transcodes and "skip" not in case else case * ("skip" in case),
        "skip_transcoder" if "skip" in case else "autoencoder",
    )


@pytest.mark.parametrize("case", sorted(p.name for p in (DATA / "dictionary_learning").iterdir()))
def test_dictionary_learning(case: str, tmp_path: Path):
    sae, fact = only_sae(taken(DATA / "dictionary_learning" / case, tmp_path / "suite"))
    check(sae, DATA / "dictionary_learning" / case)
    assert (fact["site"], fact["model"]) == ("resid_post.1", "tiny")


def test_sparsify(tmp_path: Path):
    sae, fact = only_sae(taken(DATA / "sparsify" / "run", tmp_path / "suite"))
    check(sae, DATA / "sparsify/run/layers.1.mlp")
    assert (fact["site"], sae.k) == ("mlp_out.1", 3)


def test_a_skip_transcoder_of_sparsify(tmp_path: Path):
    ends = Ends("mlp_in.1", "mlp_out.1")
    sae, fact = only_sae(taken(DATA / "sparsify" / "skip", tmp_path / "suite", ends))
    check(sae, DATA / "sparsify/skip/layers.1.mlp")
    assert fact["kind"] == "skip_transcoder"


def test_files_that_are_no_saes_are_passed_over_with_a_word(tmp_path: Path):
    events: list[Event] = []
    folder = str(DATA / "saelens" / "jumprelu")
    exchange.read(folder, tmp_path / "suite", (), NOWHERE, events.append)
    said = [event.text for event in events if isinstance(event, Warned)]
    assert said == ["seen.safetensors is in no format we know"]
