"""What other libraries call the sites, and models whose architecture nobody has described."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from panscope.errors import ConfigError, NotFound, Unsupported
from panscope.model import aliases, ends, load, tap
from panscope.model.families import FAMILIES
from panscope.model.folder import pocket_file
from panscope.model.load import Model
from panscope.sites import Site, match_sites

IDS = torch.randint(4, 4096, (2, 7), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("model.layers.1.output", "resid_post.1"),
        ("model.layers.1.input", "resid_pre.1"),
        ("model.layers.1.self_attn.o_proj.input", "attn_z.1"),
        ("model.layers.1.post_attention_layernorm.output", "attn_out.1"),
        ("model.layers.1.pre_feedforward_layernorm.output", "mlp_in.1"),
        ("model.layers.1.post_feedforward_layernorm.output", "mlp_out.1"),
        ("model.norm.input", "final_norm_in"),
        ("model.layers.1.mlp.down_proj.input", "model.layers.1.mlp.down_proj.input"),
        ("blocks.1.hook_resid_pre", "resid_pre.1"),
        ("blocks.1.hook_resid_mid", "resid_mid.1"),
        ("blocks.1.hook_resid_post", "resid_post.1"),
        ("blocks.1.attn.hook_z", "attn_z.1"),
        ("blocks.1.attn.hook_pattern", "attn_pattern.1"),
        ("blocks.1.hook_attn_out", "attn_out.1"),
        ("blocks.1.hook_mlp_out", "mlp_out.1"),
        ("blocks.1.ln2.hook_normalized", "mlp_in_unit.1"),
        ("hook_embed", "embed"),
        ("resid_post.1", "resid_post.1"),
    ],
)
def test_a_name_of_another_library_is_one_site(tiny_model: Model, name: str, site: str):
    assert tiny_model.sites([name]) == (Site.parse(site),)


def test_patterns_are_names_of_many(tiny_model: Model):
    post = match_sites(["resid_post.*"], 3)
    for pattern in ("resid_post.*", "blocks.*.hook_resid_post", "model.layers.*.output"):
        assert tiny_model.sites([pattern]) == post
    assert tiny_model.sites(["embed", "model.layers.*.output", "resid_post.2"])[1:] == post


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "blocks.3.hook_mlp_in",
            Unsupported,
            r"before the norm in .*; name resid_mid\.3 or mlp_in\.3",
        ),
        ("blocks.3.attn.hook_attn_scores", Unsupported, r"mask in it; name attn_scores\.3, before"),
        ("blocks.3.attn.hook_rot_k", Unsupported, r"laid out .*; name k_rot\.3, \(batch, heads"),
        ("blocks.3.hook_resid_pots", NotFound, r"did you mean blocks\.3\.hook_resid_post"),
        ("model.layers.7.output", NotFound, r"no module model\.layers\.7; did you mean model\.lay"),
        ("blocks.7.hook_resid_post", NotFound, "the model has 3 layers"),
        ("resid_pots.1", NotFound, "did you mean resid_post"),
        ("model.layers.1", NotFound, "no site kind 'model'"),
    ],
)
def test_a_name_that_is_no_site_is_answered(
    tiny_model: Model, name: str, error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        tiny_model.sites([name])


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("gpt2", "hook_embed"),
        ("gpt2", "blocks.1.ln2.hook_normalized"),
        ("gpt_neox", "blocks.1.ln2.hook_normalized"),
    ],
)
def test_a_name_that_means_two_things_is_refused(family: str, name: str):
    with pytest.raises(Unsupported, match=f"site {name}: is .*; name "):
        aliases.sites(None, FAMILIES[family], 3, [name])


def test_published_paths_are_found_where_images_are_read_too():
    """Gemma Scope 2 writes model.layers for models that have it at model.language_model.layers."""
    named = {"model.language_model.layers.2": None}
    found = aliases.sites(Named(named), FAMILIES["gemma3"], 3, ["model.layers.2.output"])
    assert found == (Site("resid_post", 2),)


class Named:
    """A model that knows the names of its modules alone."""

    def __init__(self, modules: dict[str, Any]) -> None:
        self.named_modules = modules.items


# ---- architectures without a row

SIZES = {"vocab_size": 4104, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS_OF = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
WIDE = {**SIZES, **IDS_OF, "intermediate_size": 64, "max_position_embeddings": 64}
STRANGERS: dict[str, tuple[Callable[[], Any], str]] = {
    "mistral": (lambda: transformers.MistralConfig(**WIDE, num_key_value_heads=2), "model.layers"),
    "phi": (lambda: transformers.PhiConfig(**WIDE), "model.layers"),
    "olmo2": (lambda: transformers.Olmo2Config(**WIDE), "model.layers"),
    "opt": (
        lambda: transformers.OPTConfig(
            **SIZES, **IDS_OF, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=64
        ),
        "model.decoder.layers",
    ),
}


@pytest.fixture(scope="module", params=STRANGERS)
def stranger(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, str]:
    torch.manual_seed(1)
    make, layers = STRANGERS[request.param]
    folder = tmp_path_factory.mktemp("stranger")
    transformers.AutoModelForCausalLM.from_config(make()).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes(pocket_file(name).read_bytes())
    return load.load(load.Config(name=str(folder), device="cpu")), layers


def test_modules_of_any_model_are_read_and_edited(stranger: tuple[Model, str]):
    model, layers = stranger
    sites = model.sites([f"{layers}.*.output", f"{layers}.1.self_attn.input", "lm_head.input"])
    assert [str(site) for site in sites] == [
        "lm_head.input",
        f"{layers}.0.output",
        f"{layers}.1.output",
        f"{layers}.1.self_attn.input",
    ]
    run = tap.run(model, IDS, sites, with_logits=True)
    with torch.no_grad():
        out = model.lm(IDS, output_hidden_states=True)
    assert run.logits is not None and torch.equal(run.logits, out.logits)
    assert torch.equal(run.values[sites[1]], out.hidden_states[1])
    with torch.no_grad():
        assert torch.equal(model.lm.lm_head(run.values[sites[0]]), out.logits)
    edited = tap.run(model, IDS, edits={sites[1]: lambda x: 2 * x}, with_logits=True).logits
    assert edited is not None and not torch.allclose(edited, out.logits, atol=1e-3)
    assert [model.d_at(site) for site in sites] == [32] * 4


def test_another_attention_is_another_model(stranger: tuple[Model, str]):
    model, _ = stranger
    eager = load.load(load.Config(name=model.name, device="cpu", attention="eager"))
    assert eager.lm.config._attn_implementation == "eager"
    assert eager.digest != model.digest


def test_a_pass_ends_behind_the_last_path(stranger: tuple[Model, str]):
    model, layers = stranger
    ran: list[int] = []
    last = model.lm.get_submodule(f"{layers}.1")
    hook = last.register_forward_pre_hook(lambda *_: ran.append(1))
    tap.run(model, IDS, model.sites([f"{layers}.0.output"]))
    hook.remove()
    assert not ran


def test_a_named_site_of_an_unknown_architecture_says_what_is_missing(stranger: tuple[Model, str]):
    model, _ = stranger
    with pytest.raises(Unsupported, match=r"site resid_post\.0: nobody has said where .* path"):
        tap.run(model, IDS, [Site("resid_post", 0)])
    with pytest.raises(Unsupported, match="final_norm_in: nobody has said"):
        model.to_logits(Site("embed"))


def test_a_path_without_a_vector_for_each_token_has_no_size(tiny_model: Model):
    with pytest.raises(Unsupported, match=r"rotary_emb\.output: has no vector for each token; na"):
        tiny_model.d_at(Site("model.rotary_emb.output"))  # cosines: the same for all rows
    with pytest.raises(Unsupported, match=r"model\.nowhere\.output: .* has no module model\.nowhe"):
        tiny_model.d_at(Site("model.nowhere.output"))


def test_a_module_without_arguments_has_no_input():
    seen: list[object] = []
    ends.into((), {}, seen.append)
    assert seen == [None]


def test_what_is_no_tensor_is_refused(tiny_model: Model):
    with pytest.raises(Unsupported, match=r"site model\.output: holds a BaseModelOutput"):
        tap.run(tiny_model, IDS, [Site("model.output")])


def test_edits_of_paths_keep_their_shape(tiny_model: Model):
    def halved(value: Tensor) -> Tensor:
        return value[..., :16]

    with pytest.raises(ConfigError, match="return the same shape"):
        tap.run(tiny_model, IDS, edits={Site("model.layers.1.mlp.act_fn.output"): halved})
