"""The truth table of every architecture: each site is the value it says, to the bit.

On random models of every family, in float32 and bfloat16, whose norms have gains and biases that
are not the identity, so that a neighbour cannot pass for the site.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import LayerNorm, Linear

from panscope import splice
from panscope.errors import ConfigError, Unsupported
from panscope.model import load, tap
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.sites import Site, all_sites

LAYERS, VOCAB = 3, 4104  # Qwen adds tokens of its own to the packaged 4,096
IDS = torch.randint(4, VOCAB, (2, 9), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, folder: Path) -> Model:
    return load.load(load.Config(name=str(folder), dtype=request.param, device="cpu"))


@pytest.fixture(scope="module")
def values(model: Model) -> dict[Site, Tensor]:
    return tap.run(model, IDS, sites_of(model)).values


def sites_of(model: Model) -> list[Site]:
    return [site for site in all_sites(LAYERS) if site.kind not in model.family.absent]


def module_at(model: Model, kind: str, layer: int) -> Any:
    return model.lm.get_submodule(model.family.place(Site(kind, layer)).path)


def layers(values: dict[Site, Tensor]) -> Iterator[Callable[[str], Tensor]]:
    for layer in range(LAYERS):
        yield lambda kind, layer=layer: values[Site(kind, layer)]


def test_sizes(model: Model, values: dict[Site, Tensor]):
    assert (model.n_layers, model.d_model, model.n_vocab) == (LAYERS, 32, VOCAB)
    for site, value in values.items():
        assert value.shape == (*IDS.shape, model.d_at(site)), site


def test_reading_everything_leaves_the_logits_as_they_are(model: Model, values: dict[Site, Tensor]):
    with torch.no_grad():
        assert torch.equal(values[Site("logits")], model.lm(IDS).logits)


def test_the_stream_goes_from_layer_to_layer(values: dict[Site, Tensor]):
    assert torch.equal(values[Site("embed")], values[Site("resid_pre", 0)])
    for layer in range(LAYERS - 1):
        assert torch.equal(values[Site("resid_post", layer)], values[Site("resid_pre", layer + 1)])


def test_the_stream_is_the_sum_of_what_is_added(model: Model, values: dict[Site, Tensor]):
    for at in layers(values):
        first, *others = (at(kind) for kind in model.family.resid_post_is)
        assert torch.equal(sum(others, start=first), at("resid_post"))
        if "resid_mid" not in model.family.absent:
            assert torch.equal(at("resid_pre") + at("attn_out"), at("resid_mid"))
        elif model.lm.dtype == torch.bfloat16:  # so coarse that the order of the sum shows
            first, *others = (at(kind) for kind in ("resid_pre", "attn_out", "mlp_out"))
            assert not torch.equal(sum(others, start=first), at("resid_post"))


def test_heads_give_what_attention_adds(model: Model, values: dict[Site, Tensor]):
    for layer, at in enumerate(layers(values)):
        with torch.no_grad():
            added = module_at(model, "attn_z", layer)(at("attn_z"))
            if model.family.has_post_norms:
                assert not torch.equal(added, at("attn_out"))
                added = module_at(model, "attn_out", layer)(added)
        assert torch.equal(added, at("attn_out"))


def test_the_mlp_reads_its_norm_and_gives_what_it_adds(model: Model, values: dict[Site, Tensor]):
    between = "resid_pre" if "resid_mid" in model.family.absent else "resid_mid"
    for layer, at in enumerate(layers(values)):
        norm, mlp = (module_at(model, "mlp_in", layer), _mlp(model, layer))
        with torch.no_grad():
            assert torch.equal(norm(at(between)), at("mlp_in"))
            gained = model.family.gain(norm) * at("mlp_in_unit").float()
            bias = getattr(norm, "bias", None)
            finished = gained if bias is None else gained + bias
            added = mlp(at("mlp_in"))
            if model.family.has_post_norms:
                assert not torch.equal(added, at("mlp_out"))
                added = module_at(model, "mlp_out", layer)(added)
        close = {"rtol": 2e-2, "atol": 4e-2} if model.lm.dtype == torch.bfloat16 else {}
        torch.testing.assert_close(finished, at("mlp_in").float(), **close)
        assert torch.equal(added, at("mlp_out"))


def _mlp(model: Model, layer: int) -> Any:
    return model.lm.get_submodule(f"{model.family.layers}.{layer}.mlp")


def test_neighbours_are_not_the_sites(model: Model, values: dict[Site, Tensor]):
    for at in layers(values):
        kinds = [kind for kind in ("resid_mid", "mlp_in_unit", "mlp_in") if _has(model, kind)]
        for kind in (*kinds, "attn_out", "mlp_out", "resid_post"):
            for other in ("resid_pre", *kinds, "attn_out", "mlp_out", "resid_post"):
                assert kind == other or not torch.equal(at(kind), at(other)), (kind, other)


def _has(model: Model, kind: str) -> bool:
    return kind not in model.family.absent


def test_an_absent_site_says_why(model: Model):
    for kind in model.family.absent:
        with pytest.raises(Unsupported, match="does not exist in gpt_neox"):
            tap.run(model, IDS, [Site(kind, 0)])


def test_an_edit_reaches_all_that_reads_it(model: Model):
    """Without what sub-layers add the stream stays the embedding, whatever the layers compute."""
    kinds = [Site(kind, layer) for kind in ("attn_out", "mlp_out") for layer in range(LAYERS)]
    ends = [Site("embed"), Site("resid_post", LAYERS - 1)]
    values = tap.run(model, IDS, ends, dict.fromkeys(kinds, torch.zeros_like)).values
    assert torch.equal(values[ends[0]], values[ends[1]])


def test_adding_at_attention_moves_the_stream_and_what_reads_it(precise: Model):
    is_parallel = "resid_mid" in precise.family.absent  # there the MLP does not read attention
    shift = torch.randn(32, generator=torch.Generator().manual_seed(3))
    reads = [Site("resid_post" if is_parallel else "resid_mid", 1), Site("mlp_in", 1)]
    before = tap.run(precise, IDS, reads).values
    after = tap.run(precise, IDS, reads, {Site("attn_out", 1): lambda value: value + shift}).values
    torch.testing.assert_close(after[reads[0]], before[reads[0]] + shift)
    with torch.no_grad():
        read = module_at(precise, "mlp_in", 1)(before[reads[0]] + shift)
    torch.testing.assert_close(after[reads[1]], before[reads[1]] if is_parallel else read)


def test_the_end_of_a_pass_has_the_bits_of_the_whole(model: Model, values: dict[Site, Tensor]):
    begin = tap.Begin(1, values[Site("resid_pre", 1)])
    run = tap.run(model, IDS, [Site("resid_post", 2)], with_logits=True, begin=begin)
    assert torch.equal(run.values[Site("resid_post", 2)], values[Site("resid_post", 2)])
    assert run.logits is not None and torch.equal(run.logits, values[Site("logits")])


@pytest.mark.parametrize("kind", ["attn_z", "mlp_out", "resid_post"])
def test_a_spliced_pass_has_the_bits_of_a_whole_pass(model: Model, kind: str):
    site = Site(kind, 1)
    rows = Rows(IDS, torch.zeros_like(IDS), IDS > 500, ())
    base = splice.clean(model, rows, [site], [(site,)])
    shifted = base.at([site]) * 1.5 + 0.25
    spliced = splice.logits(model, base, [site], shifted)

    def edit(value: Tensor) -> Tensor:
        return value.masked_scatter(rows.mask[..., None], shifted.to(value.dtype))

    whole = tap.run(model, IDS, edits={site: edit}, with_logits=True).logits
    assert whole is not None and torch.equal(spliced, whole)


def test_directions_give_the_logits(precise: Model):
    """The norm divides each token by a number of its own; its bias is the same for all."""
    model, last = precise, Site("resid_post", LAYERS - 1)
    run = tap.run(model, IDS, [last], with_logits=True)
    norm, read = model.lm.get_submodule(model.family.final_norm), run.values[last]
    seen = read - read.mean(-1, keepdim=True) if isinstance(norm, LayerNorm) else read
    direct = read @ model.logit_directions() * seen.square().mean(-1, keepdim=True).rsqrt()
    bias = getattr(norm, "bias", None)
    offset = 0 if bias is None else bias @ model.lm.get_output_embeddings().weight.T
    assert run.logits is not None
    torch.testing.assert_close(_capped(model, direct + offset), run.logits, rtol=1e-3, atol=1e-3)


def _capped(model: Model, logits: Tensor) -> Tensor:
    cap = getattr(model.lm.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def test_directions_of_heads_go_through_the_output_projection(model: Model):
    site = Site("attn_z", 0)
    projection = module_at(model, "attn_z", 0)
    weight = projection.weight.float()
    through = weight.T if isinstance(projection, Linear) else weight
    if model.family.has_post_norms:
        through = through * model.family.gain(module_at(model, "attn_out", 0))
    assert torch.equal(model.to_logits(site), through @ model.logit_directions())


def test_texts_begin_with_bos(model: Model):
    assert model.encode("a cat")[0] == model.bos_id
    assert model.bos_id in model.special_ids


def test_edits_of_another_shape_are_refused(model: Model):
    with pytest.raises(ConfigError, match="return the same shape"):
        tap.run(model, IDS, edits={Site("resid_post", 0): lambda value: value[:1]})
