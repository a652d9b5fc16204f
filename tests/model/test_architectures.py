"""The truth table of every architecture: each site is the value it says, to the bit.

On random models of every family, in float32 and bfloat16, whose norms have gains and biases that
are not the identity, so that a neighbour cannot pass for the site.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import LayerNorm, Linear

from panscope import splice
from panscope.errors import ConfigError, Unsupported
from panscope.model import load, tap
from panscope.model.families import FAMILIES, PARALLEL_NEOX
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.sites import HEAD_KINDS, KINDS, SCORE_KINDS, VECTOR_KINDS, Site, all_sites

LAYERS, VOCAB = 3, 4104  # Qwen adds tokens of its own to the packaged 4,096
IDS = torch.randint(4, VOCAB, (2, 9), generator=torch.Generator().manual_seed(5))


def having(kind: str) -> pytest.MarkDecorator:
    """Run a test on the families that have a kind of site."""
    rows = {**FAMILIES, PARALLEL_NEOX.name: PARALLEL_NEOX}
    names = [name for name, family in rows.items() if kind not in family.absent]
    return pytest.mark.parametrize("folder", names, indirect=True, scope="session")


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, folder: Path) -> Model:
    return load.load(load.Config(name=str(folder), dtype=request.param, device="cpu"))


@pytest.fixture(scope="module")
def values(model: Model) -> dict[Site, Tensor]:
    return tap.run(model, IDS, sites_of(model)).values


def sites_of(model: Model, kinds: Iterable[str] = VECTOR_KINDS) -> list[Site]:
    return [site for site in all_sites(LAYERS, kinds) if site.kind not in model.family.absent]


def module_at(model: Model, kind: str, layer: int) -> Any:
    return model.module_at(Site(kind, layer))


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


def test_the_final_norm_reads_the_last_stream(model: Model, values: dict[Site, Tensor]):
    assert torch.equal(values[Site("final_norm_in")], values[Site("resid_post", LAYERS - 1)])


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
        with pytest.raises(Unsupported, match=f"does not exist in {re.escape(model.family.name)}"):
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
    norm, read = model.module_at(Site("final_norm_in")), run.values[last]
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


# ---- values that no module returns


def test_heads_are_read_under_any_attention_and_scores_are_refused(model: Model):
    heads = sites_of(model, HEAD_KINDS)
    run = tap.run(model, IDS, heads, with_logits=True)
    with torch.no_grad():
        plain = model.lm(IDS, use_cache=False).logits
    assert run.values.keys() == set(heads)
    assert run.logits is not None and torch.equal(run.logits, plain)
    if model.family.attention != "eager":
        with pytest.raises(
            Unsupported, match=r'loaded with sdpa.*attention = "eager" in \[model\]'
        ):
            tap.run(model, IDS, [Site("attn_pattern", 0)])


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def eager(request: pytest.FixtureRequest, folder: Path) -> Model:
    config = {"dtype": request.param, "device": "cpu", "attention": "eager"}
    return load.load(load.Config.parse({"name": str(folder), **config}, "test"))


@pytest.fixture(scope="module")
def inside(eager: Model) -> dict[Site, Tensor]:
    """The values at all sites, and nothing that reading them changed."""
    with torch.no_grad():
        plain = eager.lm(IDS, use_cache=False).logits
    run = tap.run(eager, IDS, sites_of(eager, KINDS), with_logits=True)
    assert run.logits is not None and torch.equal(run.logits, plain)
    with torch.no_grad():
        assert torch.equal(eager.lm(IDS, use_cache=False).logits, plain)
    return run.values


@pytest.fixture(scope="module")
def masks(eager: Model) -> list[Tensor]:
    """The mask that each layer's attention adds to its scores."""
    kept: list[Tensor] = []

    def keep(_: object, __: object, named: dict[str, Any]) -> None:
        kept.append(named["attention_mask"])

    attention = [module_at(eager, "attn_scores", layer) for layer in range(LAYERS)]
    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in attention]
    with torch.no_grad():
        eager.lm(IDS)
    for hook in hooks:
        hook.remove()
    return kept


def test_heads_have_their_sizes(eager: Model, inside: dict[Site, Tensor]):
    n_keys = 4 if eager.family.name.startswith("gpt") else 2
    for site in sites_of(eager, HEAD_KINDS):
        assert inside[site].shape == (2, n_keys if site.kind[0] in "kv" else 4, 9, 8)
    for site in sites_of(eager, SCORE_KINDS):
        assert inside[site].shape == (2, 4, 9, 9)


def test_queries_times_keys_are_the_scores(eager: Model, inside: dict[Site, Tensor]):
    suffix = "_rot" if _has(eager, "q_rot") else ""
    for layer, at in enumerate(layers(inside)):
        keys = _repeated(at(f"k{suffix}")).transpose(2, 3)
        scaling = module_at(eager, "q", layer).scaling
        assert torch.equal(at(f"q{suffix}") @ keys * scaling, at("attn_scores"))


def _repeated(value: Tensor) -> Tensor:
    """One head of keys or values for each head of queries."""
    n_groups = 4 // value.shape[1]
    return value if n_groups == 1 else value.repeat_interleave(n_groups, 1)


@having("q_rot")
def test_rotation_keeps_lengths_and_the_first_position(eager: Model, inside: dict[Site, Tensor]):
    close = {"rtol": 2e-2, "atol": 2e-2} if eager.lm.dtype == torch.bfloat16 else {}
    for at in layers(inside):
        for kind in "qk":
            straight, turned = at(kind), at(f"{kind}_rot")
            assert torch.equal(straight[:, :, 0], turned[:, :, 0])
            assert not torch.allclose(straight[:, :, 1:], turned[:, :, 1:], atol=0.1)
            torch.testing.assert_close(straight.norm(dim=-1), turned.norm(dim=-1), **close)


def test_queries_keys_and_values_come_from_the_projections(
    eager: Model, inside: dict[Site, Tensor]
):
    """Behind the norms that some families have there; values have none."""
    for layer, at in enumerate(layers(inside)):
        attention, read = module_at(eager, "q", layer), _read_by_attention(eager, at, layer)
        with torch.no_grad():
            made = _projected(eager, attention, read)
        for kind, value in zip("qkv", made, strict=True):
            norm = getattr(attention, f"{kind}_norm", None)
            with torch.no_grad():
                assert torch.equal(value if norm is None else norm(value), at(kind)), kind
            assert norm is None or not torch.allclose(value, at(kind), atol=0.1)


def _read_by_attention(model: Model, at: Callable[[str], Tensor], layer: int) -> Tensor:
    module = model.lm.get_submodule(f"{model.family.layers}.{layer}")
    with torch.no_grad():
        norm: Any = module.ln_1 if hasattr(module, "ln_1") else module.input_layernorm
        read: Tensor = norm(at("resid_pre"))
    return read


def _projected(model: Model, attention: Any, read: Tensor) -> list[Tensor]:
    """Queries, keys and values as (batch, heads, position, d_head)."""
    if hasattr(attention, "c_attn"):
        made = attention.c_attn(read).chunk(3, dim=-1)
    elif hasattr(attention, "query_key_value"):  # side by side in each head
        made = attention.query_key_value(read).unflatten(-1, (4, 24)).chunk(3, dim=-1)
        return [value.transpose(1, 2) for value in made]
    else:
        made = (attention.q_proj(read), attention.k_proj(read), attention.v_proj(read))
    return [value.unflatten(-1, (-1, 8)).transpose(1, 2) for value in made]


@having("attn_scores_capped")
def test_the_cap_bends_the_scores(eager: Model, inside: dict[Site, Tensor]):
    cap = eager.lm.config.attn_logit_softcapping
    for at in layers(inside):
        assert torch.equal(torch.tanh(at("attn_scores") / cap) * cap, at("attn_scores_capped"))
        assert not torch.equal(at("attn_scores"), at("attn_scores_capped"))


def test_masked_scores_give_the_pattern(
    eager: Model, inside: dict[Site, Tensor], masks: list[Tensor]
):
    last = "attn_scores_capped" if _has(eager, "attn_scores_capped") else "attn_scores"
    # GPT-2 alone takes its softmax in the model's precision
    dtype = None if eager.family.name == "gpt2" else torch.float32
    for at, mask in zip(layers(inside), masks, strict=True):
        pattern = torch.softmax(at(last) + mask, -1, dtype=dtype).to(eager.lm.dtype)
        assert torch.equal(pattern, at("attn_pattern"))
        assert not torch.equal(torch.softmax(at(last), -1), at("attn_pattern"))


def test_the_pattern_mixes_values_into_heads(eager: Model, inside: dict[Site, Tensor]):
    for at in layers(inside):
        mixed = at("attn_pattern") @ _repeated(at("v"))
        assert torch.equal(mixed.transpose(1, 2).flatten(2), at("attn_z"))


def test_each_query_head_has_a_part_of_attn_z(eager: Model, inside: dict[Site, Tensor]):
    """Side by side in order, also where several share one head of keys and values."""
    n_heads = eager.heads_at(Site("attn_z", 1))
    for at in layers(inside):
        heads = at("attn_z").unflatten(-1, (n_heads, -1)).unbind(2)
        mixed = (at("attn_pattern") @ _repeated(at("v"))).unbind(1)
        assert all(torch.equal(*pair) for pair in zip(heads, mixed, strict=True))


def test_no_heads_stand_side_by_side_elsewhere(eager: Model):
    path = f"{eager.family.place(Site('attn_z', 1)).path}.input"
    assert eager.heads_at(Site(path)) == eager.n_heads == 4
    others = [site for site in sites_of(eager, VECTOR_KINDS) if site.kind != "attn_z"]
    assert not any(map(eager.heads_at, others))


def test_the_pattern_is_what_transformers_returns(
    folder: Path, eager: Model, inside: dict[Site, Tensor]
):
    """From a model of its own: asking for attentions leaves hooks of transformers in it."""
    kind, dtype = type(eager.lm), eager.lm.dtype
    lm = kind.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    with torch.no_grad():
        attentions = lm(IDS, use_cache=False, output_attentions=True).attentions
    for at, attention in zip(layers(inside), attentions, strict=True):
        assert torch.equal(attention, at("attn_pattern"))


def test_no_two_values_of_heads_are_the_same(eager: Model, inside: dict[Site, Tensor]):
    for kinds in (HEAD_KINDS, SCORE_KINDS):
        found = [inside[site] for site in sites_of(eager, kinds)]
        for i, one in enumerate(found):
            assert not any(torch.equal(one, other) for other in found[:i])


def test_edits_that_change_nothing_change_no_bit(eager: Model, inside: dict[Site, Tensor]):
    writable = [s for s in sites_of(eager, KINDS) if s.kind not in eager.family.read_only]
    edits = dict.fromkeys(writable, lambda value: value)
    logits = tap.run(eager, IDS, edits=edits, with_logits=True).logits
    assert logits is not None and torch.equal(logits, inside[Site("logits")])


def test_an_edit_of_heads_reaches_what_reads_them(eager: Model, inside: dict[Site, Tensor]):
    out = [Site("attn_pattern", 1), Site("attn_z", 1)]
    for site in (Site(kind, 1) for kind in (*HEAD_KINDS, *SCORE_KINDS) if _has(eager, kind)):
        after = tap.run(eager, IDS, [site, *out], {site: lambda value: value.flip(1) * 2}).values
        assert torch.equal(after[site], inside[site].flip(1) * 2), site
        assert not torch.equal(after[out[1]], inside[out[1]]), site
        assert torch.equal(after[out[0]], inside[out[0]]) == (site.kind == "v"), site


def test_a_pattern_may_be_replaced(eager: Model):
    """Each token looking at itself alone: the heads hold its own values."""
    site, values = Site("attn_pattern", 1), Site("v", 1)
    edits = {site: lambda value: torch.eye(9).to(value).expand_as(value)}
    read = tap.run(eager, IDS, [values, Site("attn_z", 1)], edits).values
    own = _repeated(read[values]).transpose(1, 2).flatten(2)
    assert torch.equal(read[Site("attn_z", 1)], own)


@having("resid_mid")
def test_an_edit_between_attention_and_mlp_reaches_the_stream(precise: Model):
    """As the same difference at attn_out does, and not as one that the MLP alone reads."""
    shift, last = torch.full((32,), 0.5), Site("resid_post", 1)

    def shifted(*edited: str) -> Tensor:
        edits = {Site(kind, 1): lambda value: value + shift for kind in edited}
        return tap.run(precise, IDS, [last], edits).values[last]

    stream = shifted("resid_mid")
    torch.testing.assert_close(stream, shifted("attn_out"), rtol=1e-5, atol=1e-5)
    norm = module_at(precise, "mlp_in", 1)
    hook = norm.register_forward_pre_hook(lambda _, args: (args[0] + shift,))
    mlp_alone = shifted()
    hook.remove()
    torch.testing.assert_close(stream - shift, mlp_alone, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(stream, mlp_alone, atol=0.1)
