"""The truth table of Gemma 2's sites, bit for bit; hooks without a trace; edits."""

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from panscope.errors import ConfigError, NotFound, Unsupported
from panscope.model import ends, load, tap
from panscope.model.families import GEMMA2, Place
from panscope.model.load import Model
from panscope.sites import Site, all_sites

SITES = all_sites(3)
LAYERS = range(3)
WRITABLE = [site for site in SITES if site.kind not in GEMMA2.read_only]
IDS = torch.randint(3, 4096, (2, 20), generator=torch.Generator().manual_seed(1))
IDS[:, 0] = 2


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, tiny_model_folder: Path) -> Model:
    config = load.Config(name=str(tiny_model_folder), dtype=request.param, device="cpu")
    return load.load(config)


@pytest.fixture(scope="module")
def at(model: Model) -> Callable[..., Tensor]:
    """The value at a site, by kind and layer."""
    values = tap.run(model, IDS, SITES).values
    return lambda kind, layer=None: values[Site(kind, layer)]


def plain_logits(model: Model) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.lm(IDS).logits
    return logits


def output_of(model: Model, path: str) -> Tensor:
    """What a module returns, by a hook of our own."""
    kept: list[Tensor] = []
    module = model.lm.get_submodule(path)
    hook = module.register_forward_hook(lambda _, __, output: kept.append(output))
    plain_logits(model)
    hook.remove()
    return kept[0]


def hooks_of(model: Model) -> list[object]:
    modules = model.lm.modules()
    return [h for m in modules for h in (*m._forward_hooks, *m._forward_pre_hooks)]


# ---- the truth table


def test_every_site_has_its_size_and_the_batch(model: Model, at: Callable[..., Tensor]):
    for site in SITES:
        assert at(site.kind, site.layer).shape == (*IDS.shape, model.d_at(site))


def test_the_stream_begins_with_the_embedding(at: Callable[..., Tensor]):
    assert torch.equal(at("embed"), at("resid_pre", 0))


def test_a_layer_begins_where_the_one_before_ends(at: Callable[..., Tensor]):
    for layer in LAYERS[1:]:
        assert torch.equal(at("resid_post", layer - 1), at("resid_pre", layer))


def test_sublayers_add_to_the_stream(at: Callable[..., Tensor]):
    for layer in LAYERS:
        mid, post = at("resid_mid", layer), at("resid_post", layer)
        assert torch.equal(at("resid_pre", layer) + at("attn_out", layer), mid)
        assert torch.equal(mid + at("mlp_out", layer), post)


def test_heads_give_the_attention_output(model: Model, at: Callable[..., Tensor]):
    for i, layer in enumerate(model.lm.model.layers):
        added = layer.post_attention_layernorm(layer.self_attn.o_proj(at("attn_z", i)))
        assert torch.equal(added, at("attn_out", i))


def test_the_mlp_reads_mlp_in_and_gives_mlp_out(model: Model, at: Callable[..., Tensor]):
    for i, layer in enumerate(model.lm.model.layers):
        assert torch.equal(layer.pre_feedforward_layernorm(at("resid_mid", i)), at("mlp_in", i))
        added = layer.post_feedforward_layernorm(layer.mlp(at("mlp_in", i)))
        assert torch.equal(added, at("mlp_out", i))


def test_the_gain_times_the_unit_norm_is_what_the_mlp_reads(
    model: Model, at: Callable[..., Tensor]
):
    for i, layer in enumerate(model.lm.model.layers):
        unit = at("mlp_in_unit", i)
        gain = 1 + layer.pre_feedforward_layernorm.weight.float()
        scaled = (unit.float() * gain).to(unit.dtype)
        bits = 2**-8 if unit.dtype == torch.bfloat16 else 0  # the unit is rounded before the gain
        torch.testing.assert_close(scaled, at("mlp_in", i), rtol=2 * bits, atol=0)
        rms = unit.float().square().mean(-1).sqrt()
        torch.testing.assert_close(rms, torch.ones_like(rms), rtol=1e-2, atol=0)


def test_the_last_stream_gives_the_logits(model: Model, at: Callable[..., Tensor]):
    raw = model.lm.lm_head(model.lm.model.norm(at("resid_post", 2)))
    assert torch.equal(torch.tanh(raw / 30) * 30, at("logits"))
    assert torch.equal(at("logits"), plain_logits(model))


def test_neighbours_are_not_the_sites(model: Model, at: Callable[..., Tensor]):
    """What is easily taken for a site differs from it."""
    with torch.no_grad():
        hidden = model.lm(IDS, output_hidden_states=True).hidden_states
    assert torch.equal(hidden[2], at("resid_post", 1))
    assert not torch.allclose(hidden[-1], at("resid_post", 2), atol=0.1)
    assert not torch.allclose(output_of(model, "model.layers.1.mlp"), at("mlp_out", 1), atol=0.1)
    raw = output_of(model, "model.layers.1.self_attn.o_proj")
    assert not torch.allclose(raw, at("attn_out", 1), atol=0.1)
    assert not torch.allclose(at("mlp_in", 1), at("resid_mid", 1), atol=0.1)
    assert not torch.allclose(output_of(model, "lm_head"), at("logits"), atol=0.1)


def test_a_reading_of_one_site_is_that_of_all(model: Model, at: Callable[..., Tensor]):
    for site in SITES:
        alone = tap.run(model, IDS, [site]).values
        assert list(alone) == [site]
        assert torch.equal(alone[site], at(site.kind, site.layer))


# ---- no trace


def test_reading_leaves_the_logits_as_they_were(model: Model):
    run = tap.run(model, IDS, SITES, with_logits=True)
    assert torch.equal(run.logits, plain_logits(model))
    assert torch.equal(run.logits, run.values[Site("logits")])


def test_no_edits_change_no_bit(model: Model):
    assert torch.equal(tap.run(model, IDS, edits={}, with_logits=True).logits, plain_logits(model))


def test_identity_edits_change_no_bit(model: Model):
    edits = {site: lambda x: x for site in WRITABLE}
    assert torch.equal(
        tap.run(model, IDS, edits=edits, with_logits=True).logits, plain_logits(model)
    )


def test_hooks_are_removed(tiny_model: Model):
    before = hooks_of(tiny_model)
    tap.run(tiny_model, IDS, SITES)
    tap.run(tiny_model, IDS, SITES[:5])
    assert hooks_of(tiny_model) == before


def test_hooks_are_removed_after_an_error_in_an_edit(tiny_model: Model):
    before, logits = hooks_of(tiny_model), plain_logits(tiny_model)

    def fail(x: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        tap.run(tiny_model, IDS, SITES, edits={Site("mlp_out", 1): fail})
    assert hooks_of(tiny_model) == before
    assert torch.equal(plain_logits(tiny_model), logits)


def test_hooks_are_removed_when_installing_them_fails(tiny_model: Model):
    before = hooks_of(tiny_model)
    broken = elsewhere(tiny_model, "mlp_out", "no.such.module")
    with pytest.raises(Unsupported, match=r"site mlp_out\.0: .*no module model\.layers\.0\.no\.su"):
        tap.run(broken, IDS, SITES)
    assert hooks_of(tiny_model) == before


def test_an_early_end_leaves_transformers_usable(tiny_model: Model):
    tap.run(tiny_model, IDS, [Site("resid_post", 0)])
    with torch.no_grad():
        out = tiny_model.lm(IDS, output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == 4
    assert len(out.attentions) == 3


def test_values_need_no_gradient_and_share_nothing_that_changes(tiny_model: Model):
    """Copies taken when each value appears equal the values after the pass."""
    copies: dict[Site, Tensor] = {}

    def copy_at(site: Site) -> Callable[[Tensor], Tensor]:
        def edit(x: Tensor) -> Tensor:
            copies[site] = x.clone()
            return x

        return edit

    values = tap.run(tiny_model, IDS, SITES, {site: copy_at(site) for site in WRITABLE}).values
    assert not any(value.requires_grad for value in values.values())
    assert all(torch.equal(values[site], copies[site]) for site in WRITABLE)


def test_an_edit_in_place_does_not_reach_what_was_read(tiny_model: Model):
    clean = tap.run(tiny_model, IDS, [Site("resid_post", 0)]).values[Site("resid_post", 0)]
    edits = {Site("resid_pre", 1): lambda x: x.zero_()}
    values = tap.run(tiny_model, IDS, [Site("resid_post", 0), Site("resid_pre", 1)], edits).values
    assert torch.equal(values[Site("resid_post", 0)], clean)
    assert not values[Site("resid_pre", 1)].any()


# ---- what is run


def calls(model: Model) -> Iterator[list[str]]:
    """Names of the modules that run while a with block lasts."""
    ran: list[str] = []
    named = [(f"layer {i}", layer) for i, layer in enumerate(model.lm.model.layers)]
    named += [("norm", model.lm.model.norm), ("head", model.lm.lm_head)]
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in named
    ]
    yield ran
    for hook in hooks:
        hook.remove()


@pytest.fixture
def ran(tiny_model: Model) -> Iterator[list[str]]:
    yield from calls(tiny_model)


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        (Site("embed"), []),
        (Site("resid_pre", 0), []),
        (Site("mlp_out", 0), []),  # layer 0 does not come to its end
        (Site("resid_pre", 1), ["layer 0"]),
        (Site("resid_post", 1), ["layer 0", "layer 1"]),
        (Site("logits"), ["layer 0", "layer 1", "layer 2", "norm", "head"]),
    ],
)
def test_the_pass_ends_behind_the_last_site(
    tiny_model: Model, ran: list[str], site: Site, expected: list[str]
):
    tap.run(tiny_model, IDS, [Site("embed"), site])
    assert ran == expected


def test_the_pass_goes_on_to_the_last_edit(tiny_model: Model, ran: list[str]):
    seen = []
    edit = {Site("resid_pre", 2): lambda x: seen.append(x.shape) or x}
    tap.run(tiny_model, IDS, [Site("embed")], edit)
    assert ran == ["layer 0", "layer 1"]
    assert seen == [(2, 20, 32)]


def test_no_cache_is_kept_and_no_head_run(tiny_model: Model, ran: list[str]):
    kept = []
    layer = tiny_model.lm.model.layers[0]
    hook = layer.register_forward_pre_hook(
        lambda _, __, kwargs: kept.append(kwargs), with_kwargs=True
    )
    run = tap.run(tiny_model, IDS, [Site("resid_post", 2)])
    hook.remove()
    assert run.logits is None
    assert "head" not in ran
    assert not any("Cache" in type(value).__name__ for value in kept[0].values())


# ---- edits


@pytest.mark.parametrize("site", WRITABLE, ids=str)
def test_an_edit_changes_the_logits(model: Model, site: Site):
    run = tap.run(model, IDS, [site], {site: lambda x: x + 1}, with_logits=True)
    assert not torch.equal(run.logits, plain_logits(model))


def test_an_edit_comes_before_the_reading(model: Model, at: Callable[..., Tensor]):
    site = Site("mlp_out", 1)
    read = [site, Site("resid_mid", 1), Site("resid_post", 1)]
    values = tap.run(model, IDS, read, {site: lambda x: 2 * x}).values
    assert torch.equal(values[site], 2 * at("mlp_out", 1))
    assert torch.equal(values[read[1]], at("resid_mid", 1))
    assert torch.equal(values[read[2]], at("resid_mid", 1) + values[site])


def test_a_patch_of_the_last_stream_makes_the_logits_of_the_other_run(model: Model):
    other = IDS.flip(0)
    site = Site("resid_post", 2)
    stream = tap.run(model, other, [site]).values[site]
    patched = tap.run(model, IDS, edits={site: lambda _: stream}, with_logits=True).logits
    assert torch.equal(patched, tap.run(model, other, with_logits=True).logits)


def test_without_what_sublayers_add_the_stream_stays_the_embedding(
    model: Model, at: Callable[..., Tensor]
):
    added = [Site(kind, layer) for kind in ("attn_out", "mlp_out") for layer in LAYERS]
    edits = dict.fromkeys(added, torch.zeros_like)
    last = Site("resid_post", 2)
    assert torch.equal(tap.run(model, IDS, [last], edits).values[last], at("embed"))


def test_an_edit_at_a_token_leaves_earlier_tokens(model: Model):
    def at_token_9(x: Tensor) -> Tensor:
        x[:, 9] += 1
        return x

    logits = tap.run(model, IDS, edits={Site("attn_out", 0): at_token_9}, with_logits=True).logits
    same = (logits == plain_logits(model)).all(-1).all(0)
    assert same[:9].all()
    assert not same[9]


def test_edited_logits_are_what_is_returned(tiny_model: Model):
    run = tap.run(tiny_model, IDS, (), {Site("logits"): torch.zeros_like}, with_logits=True)
    assert not run.logits.any()


@pytest.mark.parametrize(
    ("edit", "returned"),
    [
        (lambda x: x[:1], r"\(1, 20, 32\) float32"),
        (lambda x: x[0], r"\(20, 32\) float32"),
        (lambda x: x.mean(1, keepdim=True), r"\(2, 1, 32\) float32"),
        (lambda x: x.double(), r"\(2, 20, 32\) float64"),
        (lambda x: x.to("meta"), r"\(2, 20, 32\) float32 on meta"),
        (lambda x: None, "NoneType"),
    ],
)
def test_an_edit_returns_a_value_like_the_one_it_got(
    tiny_model: Model, edit: Callable[[Tensor], Tensor], returned: str
):
    before = hooks_of(tiny_model)
    with pytest.raises(ConfigError, match=rf"site attn_z\.1: the edit returned {returned}.* for "):
        tap.run(tiny_model, IDS, edits={Site("attn_z", 1): edit})
    assert hooks_of(tiny_model) == before


# ---- passes that begin at a layer


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_end_of_a_pass_has_the_bits_of_the_whole(
    model: Model, at: Callable[..., Tensor], layer: int
):
    above = [site for site in SITES if (layer, 0) <= site.order]
    begin = tap.Begin(layer, at("resid_pre", layer))
    run = tap.run(model, IDS, above, with_logits=True, begin=begin)
    assert torch.equal(run.logits, plain_logits(model))
    for site in above:
        assert torch.equal(run.values[site], at(site.kind, site.layer)), str(site)


def test_a_pass_may_begin_behind_the_last_layer(model: Model, at: Callable[..., Tensor]):
    begin = tap.Begin(3, at("resid_post", 2))
    run = tap.run(model, IDS, [Site("logits")], begin=begin)
    assert torch.equal(run.values[Site("logits")], plain_logits(model))


@pytest.mark.parametrize("site", [site for site in WRITABLE if site.layer == 1], ids=str)
def test_an_edit_above_the_beginning_has_the_bits_of_the_whole(
    model: Model, at: Callable[..., Tensor], site: Site
):
    edits = {site: lambda x: x.flip(1)}
    whole = tap.run(model, IDS, edits=edits, with_logits=True).logits
    begin = tap.Begin(1, at("resid_pre", 1))
    end = tap.run(model, IDS, edits=edits, with_logits=True, begin=begin).logits
    assert torch.equal(end, whole)


def test_the_stream_of_other_tokens_makes_their_logits(model: Model):
    other = IDS.flip(0)
    stream = tap.run(model, other, [Site("embed")]).values[Site("embed")]
    begun = tap.run(model, IDS, with_logits=True, begin=tap.Begin(0, stream)).logits
    assert torch.equal(begun, tap.run(model, other, with_logits=True).logits)


def test_what_lies_below_does_not_run(tiny_model: Model):
    stream = tap.run(tiny_model, IDS, [Site("resid_pre", 2)]).values[Site("resid_pre", 2)]
    norms = [layer.input_layernorm for layer in tiny_model.lm.model.layers]
    ran: list[int] = []
    hooks = [
        norm.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, norm in enumerate(norms)
    ]
    tap.run(tiny_model, IDS, with_logits=True, begin=tap.Begin(2, stream))
    for hook in hooks:
        hook.remove()
    assert ran == [2]


def test_a_beginning_leaves_no_trace(tiny_model: Model):
    logits = plain_logits(tiny_model)
    begin = tap.Begin(2, torch.zeros(2, 20, 32))
    assert not torch.equal(tap.run(tiny_model, IDS, with_logits=True, begin=begin).logits, logits)
    assert torch.equal(plain_logits(tiny_model), logits)
    with pytest.raises(RuntimeError, match="size"):
        tap.run(tiny_model, IDS, with_logits=True, begin=tap.Begin(2, torch.zeros(2, 20, 7)))
    assert torch.equal(plain_logits(tiny_model), logits)
    assert not any("forward" in vars(module) for module in tiny_model.lm.modules())


@pytest.mark.parametrize("site", [Site("embed"), Site("resid_post", 0)], ids=str)
def test_a_site_below_the_beginning_is_refused(tiny_model: Model, site: Site):
    begin = tap.Begin(1, torch.zeros(2, 20, 32))
    with pytest.raises(ConfigError, match=rf"site {site}: lies before layer 1, where the pass beg"):
        tap.run(tiny_model, IDS, [site, Site("logits")], begin=begin)


# ---- passes inside passes, and beside them


def test_a_pass_within_an_edit_is_its_own(tiny_model: Model):
    """Neither sees the other's edits, readings or beginning."""
    site, other = Site("mlp_out", 1), IDS.flip(0)
    whole = tap.run(tiny_model, other, SITES, with_logits=True)
    stream = tap.run(tiny_model, IDS, [Site("resid_pre", 1)]).values[Site("resid_pre", 1)]
    begin = tap.Begin(1, stream)
    inner: list[tap.Run] = []

    def edit(value: Tensor) -> Tensor:
        inner.append(tap.run(tiny_model, other, SITES, with_logits=True))
        begun = tap.run(tiny_model, other, with_logits=True, begin=tap.Begin(0, stream))
        assert not torch.equal(begun.logits, whole.logits)
        return 2 * value

    above = [site for site in SITES if site.order >= (1, 0)]
    nested = tap.run(tiny_model, IDS, above, {site: edit}, with_logits=True, begin=begin)
    plain = tap.run(tiny_model, IDS, above, {site: lambda x: 2 * x}, with_logits=True)
    assert torch.equal(nested.logits, plain.logits)
    assert all(torch.equal(nested.values[s], plain.values[s]) for s in above)
    assert torch.equal(inner[0].logits, whole.logits)
    assert all(torch.equal(inner[0].values[s], whole.values[s]) for s in SITES)
    assert not any("forward" in vars(module) for module in tiny_model.lm.modules())


def test_what_hid_a_forward_before_hides_it_after(tiny_model: Model):
    """As accelerate's hooks do, which move weights."""
    layer = tiny_model.lm.model.layers[0]
    own = layer.forward
    layer.forward = lambda *args, **kwargs: own(*args, **kwargs)
    hiding = layer.forward
    tap.run(tiny_model, IDS, with_logits=True, begin=tap.Begin(1, torch.zeros(2, 20, 32)))
    assert layer.forward is hiding
    del layer.forward


def test_two_threads_run_two_models(tiny_model: Model, tiny_model_folder: Path):
    two = load.load(load.Config(name=str(tiny_model_folder), device="cpu"))
    site = Site("resid_post", 1)
    expected = [tap.run(tiny_model, IDS, [site], {site: added(n)}).values[site] for n in (1, 2)]

    def often(model: Model, n: int) -> list[Tensor]:
        return [tap.run(model, IDS, [site], {site: added(n)}).values[site] for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(often, (tiny_model, two), (1, 2)))
    for values, same in zip(made, expected, strict=True):
        assert all(torch.equal(value, same) for value in values)


def added(number: int) -> tap.Edit:
    return lambda value: value + number


# ---- what cannot be


@pytest.mark.parametrize(
    "part", ["whole", "in place", "forward", "a layer", "a layer in place", "within a layer"]
)
def test_a_compiled_model_is_refused(tiny_model: Model, part: str):
    """Its code would not come by the hooks."""
    lm = copy.deepcopy(tiny_model.lm)
    layers = lm.model.layers
    if part == "whole":
        lm = torch.compile(lm, backend="eager")
    elif part == "in place":
        lm.compile(backend="eager")
    elif part == "forward":
        lm.forward = torch.compile(lm.forward, backend="eager")
    elif part == "a layer":
        layers[1] = torch.compile(layers[1], backend="eager")
    elif part == "a layer in place":
        layers[1].compile(backend="eager")
    else:
        layers[1].mlp = torch.compile(layers[1].mlp, backend="eager")
    compiled = replace(tiny_model, lm=lm)
    with pytest.raises(Unsupported, match=r"is compiled, and compiled code does not see hooks"):
        tap.run(compiled, IDS, [Site("resid_post", 0)])
    with pytest.raises(Unsupported, match=r"declare the sites before \(model/static\.py\)"):
        tap.run(compiled, IDS, with_logits=True)


def test_a_site_that_cannot_be_edited(tiny_model: Model):
    with pytest.raises(Unsupported, match=r"site mlp_in_unit\.1: .*edit mlp_in\.1, which is this"):
        tap.run(tiny_model, IDS, edits={Site("mlp_in_unit", 1): lambda x: x})


def test_a_layer_that_is_not_there(tiny_model: Model):
    for edits in ({}, {Site("mlp_out", 3): lambda x: x}):
        with pytest.raises(NotFound, match=r"site mlp_out\.3: .* 3 layers; use mlp_out\.0 to mlp"):
            tap.run(tiny_model, IDS, [] if edits else [Site("mlp_out", 3)], edits)


def elsewhere(model: Model, kind: str, path: str) -> Model:
    """A model whose family says that a kind of site is at another module's output."""
    places = GEMMA2.places | {kind: Place(path, "output")}
    return replace(model, family=replace(GEMMA2, places=places))


def test_a_site_that_is_never_reached(tiny_model: Model):
    """The list of layers is a module, but never called."""
    unreached = elsewhere(tiny_model, "embed", "model.layers")
    with pytest.raises(Unsupported, match="site embed: was not reached in a forward pass of"):
        tap.run(unreached, IDS, [Site("embed"), Site("resid_post", 0)])


def test_layers_that_return_tuples_keep_the_batch(tiny_model: Model):
    """As transformers 4 had them: the value is the first element, not the first row."""
    value = torch.randn(2, 3, 4)
    kept = []

    def reach(x: Tensor) -> Tensor:
        kept.append(x)
        return x + 1

    out = ends.through((value, "attention"), reach)
    assert torch.equal(kept[0], value)
    assert torch.equal(out[0], value + 1)
    assert out[1] == "attention"
