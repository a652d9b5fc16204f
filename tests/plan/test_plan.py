"""Plans: every number by hand on a tiny shape, and the totals that Gemma Scope states."""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from panscope.errors import ConfigError, NotFound
from panscope.kernels.pairs import Pairs
from panscope.model.load import Config, read_outline, read_shape
from panscope.model.outline import Outline
from panscope.model.shape import Shape
from panscope.model.text import Rows
from panscope.plan import Plan, cost, disk, plan
from panscope.plan.cost import TIB, Prices
from panscope.plan.machines import ACCELERATORS, UTILISATION, Machine
from panscope.plan.report import report, verdict
from panscope.plan.work import Wanted, Work
from panscope.recipe import Recipe, read_recipe
from panscope.sites import Site
from panscope.stages.describe.log import Log
from panscope.stages.train import memory

PIB = 1 << 50
SHAPE = Shape(n_layers=3, d_model=4, d_attn=6, n_vocab=10, n_parameters=200, n_layer_parameters=50)
LAYER = 2 * 50 + 4 * 6 * 8  # weights, and attention over a context of 8
WHOLE = 3 * LAYER + 2 * 4 * 10
MACHINE = Machine("mine", 10**9, 1000.0, 500.0, 64.0, 32.0, is_gpu=False)
NONE = Prices()


def wanted(**changes: Any) -> Wanted:
    """Two Saes of 256 tokens and a transcoder of 512."""
    transcoder = {"kind": "transcoder", "sites": ["resid_pre.1"], "writes": ["mlp_out.1"]}
    longer = {**transcoder, "widths": [32], "target_l0": [2.0], "tokens": 512}
    first = {"sites": ["resid_post.0", "attn_z.2"], "widths": [16], "target_l0": [2.0]}
    tree = {
        "text": {"context": 8},
        "harvest": {"bucket_tokens": 32, "batch_rows": 2, "dtype": "float32"},
        "train": {**first, "tokens": 256, "batch_tokens": 64, "more": [longer]},
        "evaluate": {"tokens": 20, "batch_rows": 2},
        "describe": {"tokens": 100},
        **changes,
    }
    return Wanted(Recipe.parse(tree, "test"), SHAPE)


def suite(name: str) -> Wanted:
    recipe = read_recipe(name)
    return Wanted(recipe, read_shape(recipe.model))


@pytest.fixture(scope="module")
def pocket() -> Outline:
    return read_outline(Config())


def planned(asked: Wanted, *machines: Machine, prices: Prices = NONE) -> Plan:
    return plan(asked, machines, prices)


# By hand


def test_operations_of_each_stage():
    asked = wanted()
    assert planned(asked).flops == {
        "harvest": 256 * 3 * LAYER + 256 * 2 * LAYER,  # attn_z.2 is wanted for half of the text
        "train": 2 * 256 * (4 * 16 + 6 * 16) + 2 * 512 * 4 * 32,
        "train, dense": 6 * 256 * (8 * 16 + 12 * 16) + 6 * 512 * 8 * 32,
        "evaluate": 193_792 + 18_432,
        "describe": 87_600 + 76_672,
    }
    above = (WHOLE - LAYER) + 2 * (WHOLE - 2 * LAYER)  # resid_post.0; attn_z.2 and mlp_out.1
    assert asked.evaluation() == Work(32 * (3 * LAYER + WHOLE + 3 * above), 18_432)
    assert asked.evaluation().model == 193_792  # 20 tokens are two batches of 16
    assert asked.description() == Work(100 * 3 * LAYER, 76_672)


@pytest.mark.parametrize(
    ("site", "n_layers"),
    [("embed", 0), ("resid_pre.0", 0), ("attn_z.0", 1), ("resid_post.1", 2), ("logits", 3)],
)
def test_a_pass_runs_the_layers_up_to_its_last_site(site: str, n_layers: int):
    assert wanted().forward([Site("embed"), Site.parse(site)]) == n_layers * LAYER


def test_a_store_holds_what_the_longest_training_of_each_site_reads():
    found = planned(wanted())
    assert {(h.site, h.d, h.tokens) for h in found.activations} == {
        ("resid_post.0", 4, 256),
        ("attn_z.2", 6, 256),
        ("resid_pre.1", 4, 512),
        ("mlp_out.1", 4, 512),
    }
    numbers = 256 * 10 + 512 * 8
    sizes = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
    for dtype, size in sizes.items():
        assert found.activation_bytes(dtype) == numbers * size + 12 * 512
    assert [part.tokens for part in found.parts] == [256, 512]
    assert (found.tokens, found.suite_bytes) == (512, 4 * (16 * 8 + 16 * 12 + 32 * 8))


def test_a_store_that_training_reads_holds_what_harvest_says():
    harvest = {"sites": ["resid_*", "attn_z.2", "mlp_out.1"], "tokens": 1000}
    found = planned(wanted(source="store", harvest=harvest))
    assert found.is_stored
    assert {h.tokens for h in found.activations} == {1000}
    assert len(found.activations) == 3 * 3 + 2
    with pytest.raises(ConfigError, match=r"lacks resid_pre\.1, which is trained"):
        planned(wanted(source="store", harvest={"sites": ["resid_post.0", "attn_z.2"]}))


def test_the_log_of_a_description_takes_what_is_planned(tmp_path: Path):
    """Against one that is written: 4,096 tokens at which two latents of each Sae fire."""
    n, saes = 4096, ("a", "b", "c")
    rows = Rows(*torch.zeros(2, 1, n, dtype=torch.int64), torch.ones(1, n, dtype=torch.bool), ("",))
    tokens = torch.arange(n, dtype=torch.int32).repeat_interleave(2)
    latents = torch.tensor([0, 1], dtype=torch.int32).repeat(n)
    pairs = Pairs(tokens, latents, torch.ones(2 * n), torch.arange(0, 2 * n + 1, 2), 16)
    Log(tmp_path, "key").write(0, 0, [rows], {sae: [pairs] for sae in saes})
    written = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    asked = wanted(describe={"tokens": n})
    assert len(asked.specs) == len(saes)
    assert 0 <= written - planned(asked).log_bytes < 4 * 500  # the files' headers
    by_price = {"sites": ["resid_post.0"], "widths": [200], "sparsity": [0.1]}
    assert planned(wanted(train=by_price, describe={"tokens": n})).log_bytes == n * (800 + 4 + 9)


# Other libraries' names


def sites_of_each(asked: Wanted) -> list[tuple[str, int, float]]:
    found = planned(asked)
    return [(held.site, held.d, found.flops["harvest"]) for held in found.activations]


@pytest.mark.parametrize("name", ["blocks.1.hook_resid_post", "model.layers.1.output"])
def test_a_site_may_be_named_as_other_libraries_do(pocket: Outline, name: str):
    train = {"widths": [512], "target_l0": [2.0], "tokens": 4096}
    named = [
        Wanted(Recipe.parse({"train": {**train, "sites": [site]}}, "test"), pocket)
        for site in (name, "resid_post.1")
    ]
    assert sites_of_each(named[0]) == sites_of_each(named[1])
    assert planned(named[0]).parts[0].sites == name


def test_a_path_is_planned_by_the_size_and_the_layer_of_its_module(pocket: Outline):
    path = "model.layers.1.mlp.up_proj.output"
    train = {"sites": [path], "widths": [512], "target_l0": [2.0], "tokens": 4096}
    asked = Wanted(Recipe.parse({"train": train}, "test"), pocket)
    d = pocket.lm.config.intermediate_size
    assert asked.d_at == {Site(path): d}
    assert asked.forward(asked.d_at) == asked.forward([Site("resid_post", 1)])
    assert planned(asked).suite_bytes == 4 * 2 * 512 * d
    nowhere = {**train, "sites": ["model.layers.1.mlp.upproj.output"]}
    with pytest.raises(NotFound, match="up_proj"):
        planned(Wanted(Recipe.parse({"train": nowhere}, "test"), pocket))


def test_memory_of_a_stream_and_of_training():
    asked = wanted()
    assert planned(asked).harvest_bytes == 18 * (2 * 32 * 4 + 16 * 4) + 200 * 4
    as_int8 = wanted(harvest={"bucket_tokens": 32, "batch_rows": 2, "dtype": "int8"})
    assert planned(as_int8).harvest_bytes == planned(asked).harvest_bytes  # until it is written
    (found,) = planned(asked, MACHINE).costs
    config, cpu = asked.recipe.train, torch.device("cpu")
    groups = memory.groups(asked.specs, asked.d_at, config, cpu)
    assert found.banks == len(groups) == 2
    needs = [memory.group_bytes(group, asked.d_at, config, cpu) for group in groups]
    beside = [d * 192 + 800 for d in (10, 8)]
    assert found.train_bytes == max(a + b for a, b in zip(needs, beside, strict=True))
    assert found.too_large == ()
    (small,) = planned(asked, replace(MACHINE, memory_bytes=1000)).costs
    assert (small.banks, len(small.too_large)) == (3, 3)
    assert found.fits and not small.fits


def test_machines_without_the_memory_are_named():
    def sentences(*machines: Machine) -> list[str]:
        return [str(piece) for piece in report(planned(wanted(), *machines), NONE)]

    small = replace(MACHINE, name="small", memory_bytes=1000)
    assert not any("More than there is" in text for text in sentences(MACHINE))
    assert any(
        text.startswith("More than there is on small:") for text in sentences(small, MACHINE)
    )


def test_streaming_and_storing_in_hours_and_dollars():
    rent = TIB * 730 * 3600 / 32_768  # of all 32,768 bytes: a dollar a second
    prices = Prices(hour=3600.0, tib_month=rent)
    found = planned(wanted(), MACHINE, prices=prices)
    (here,) = found.costs
    streaming, training = 256 * 3 * LAYER + 512 * 2 * LAYER, 212_992 / 500
    stored = found.flops["harvest"] / 1000 + 32_768 / 64 + (256 * 10 + 512 * 8) * 4 / 32
    assert here.streaming.hours * 3600 == pytest.approx(streaming / 1000)
    assert here.streaming.dollars == pytest.approx(streaming / 1000)
    assert here.storing.hours * 3600 == pytest.approx(stored)
    assert here.storing.dollars == pytest.approx(2 * stored + training)
    assert (here.streaming.model_passes, here.storing.model_passes) == (2, 1)
    after = (193_792 + 87_600) / 1000 + (18_432 + 76_672) / 500
    assert here.total_hours * 3600 == pytest.approx(streaming / 1000 + training + after)
    assert here.dollars == pytest.approx(here.total_hours * 3600)
    assert here.dense_hours * 3600 == pytest.approx(found.flops["train, dense"] / 500)
    stores = wanted(source="store", harvest={"sites": ["resid_*", "attn_z.2", "mlp_out.1"]})
    (other,) = planned(stores, MACHINE).costs
    assert other.hours["activations"] == other.storing.hours
    assert other.dollars is None


def test_the_sentence_says_which_is_better_and_both_numbers():
    found = planned(wanted(), MACHINE)
    assert verdict(found, found.costs[0], NONE) == (
        "Streaming is faster on mine: 8.7 min for 2 passes over the model, against 29 min for one "
        "that writes 32 KiB, and reading that bank by bank, at 32 B/s."
    )
    fast = replace(MACHINE, write_bytes=1e9, read_bytes=1e9)
    found = planned(wanted(), fast)
    assert verdict(found, found.costs[0], NONE).startswith(
        "Storing is faster on mine: 8.7 min for 2"
    )
    prices = Prices(hour=2.0)
    found = planned(wanted(), fast, prices=prices)
    assert verdict(found, found.costs[0], prices) == (
        "Storing is cheaper on mine: $0.29 for 2 passes over the model, against $0.21 for one that "
        "writes 32 KiB, reading that bank by bank, at 954 MiB/s, and keeping it until all is "
        "trained, at $20 a TiB-month."
    )


# Gemma Scope


def test_the_suites_are_those_of_table_1():
    """163 cells of 2B and 26 of transcoders, 259 of 9B, with five and six settings each."""
    for name, n_cells, n_settings in (("gemma-2-2b", 163 + 26, 5), ("gemma-2-9b", 259, 6)):
        specs = suite(name).specs
        cells = {(spec.reads, spec.writes, spec.width) for spec in specs}
        assert (len(cells), len(specs)) == (n_cells, n_cells * n_settings)
    lengths = {(spec.width, spec.n_steps * 4096 / 1e9) for spec in suite("gemma-2-9b").specs}
    assert {(width, round(n)) for width, n in lengths} == {
        (2**14, 4),
        *((2**n, 8) for n in (15, 16, 17, 18, 19)),
        (2**20, 16),
    }


def test_the_sizes_on_disk_are_those_of_the_paper():
    """Section 3.3: about 100 TiB for 8 billion tokens of a site of 9B; 17 to 20 PiB in all."""
    nine = {h.site: h for h in disk.held(suite("gemma-2-9b"))}
    assert nine["resid_post.0"].size("float32") == 8_000_000_000 * 3584 * 4
    assert round(nine["resid_post.0"].size("float32") / TIB) == 104
    assert round(nine["attn_z.0"].size("float32") / TIB) == 119
    held = [*nine.values(), *disk.held(suite("gemma-2-2b"))]
    whole = sum(h.size("float32") for h in held) / PIB
    eight = sum(
        min(h.tokens, 8_000_000_000) * h.d * 4 for h in held if not h.site.startswith("mlp_in_unit")
    )
    assert eight / PIB == pytest.approx(18.36, abs=0.01)
    assert whole == pytest.approx(19.72, abs=0.01)


def test_the_training_is_a_fifth_of_gpt_3s():
    """Section 1: more than 20 % of 3.14e23 operations."""
    dense = sum(suite(name).dense_training() for name in ("gemma-2-2b", "gemma-2-9b"))
    assert 0.20 < dense / 3.14e23 < 0.22


def test_a_dense_step_takes_as_long_as_the_paper_says():
    """Section 3.3: 45 ms for a batch at width 131,072 of 9B on 8 TPUs v3."""
    spec = next(s for s in suite("gemma-2-9b").specs if s.width == 131_072 and s.site.layer == 9)
    v3 = next(machine for machine in ACCELERATORS if machine.name == "TPU v3")
    attention = suite("gemma-2-9b").dense(spec) * 3584 / 4096  # the first site is attn_z.9
    assert 4096 * attention / (8 * v3.train_flops) == pytest.approx(0.045, rel=0.06)
    assert pytest.approx(0.508, abs=0.01) == UTILISATION


def test_what_is_too_large_for_an_accelerator_is_counted_not_refused():
    h100 = ACCELERATORS[0]
    found = planned(suite("gemma-2-9b"), h100).costs[0]
    assert {int(name.split("/w")[1].split("_")[0]) for name in found.too_large} == {2**19, 2**20}
    assert found.streaming.model_passes == found.banks > 100


# Printed


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["demo", "gemma-2-2b", "gemma-2-9b"])
def test_every_table_fits_the_terminal(name: str, width: int):
    console = Console(width=width, record=True, file=io.StringIO())
    prices = Prices(hour=2.5)
    for piece in report(planned(suite(name), *ACCELERATORS, prices=prices), prices):
        console.print(piece)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text, "nothing is cut"
    if name == "gemma-2-9b":
        assert re.search(r"mlp_out +42 +3,584 +8 billion +104 TiB +4\.28 PiB", text)
        assert re.search(r"all in float32 +13\.8 PiB", text)


def test_all_numbers_are_in_the_tree():
    asked = wanted()
    tree = planned(asked, MACHINE).tree()
    assert tree["tokens"] == 512
    assert tree["activation_bytes"]["int8"] == 256 * 10 + 512 * 8 + 12 * 512
    assert tree["activations"][0]["bytes"]["float32"] == 256 * 4 * 4
    assert tree["costs"][0]["machine"]["name"] == "mine"
    assert tree["costs"][0]["total_hours"] == sum(tree["costs"][0]["hours"].values())
    assert cost.cost(asked, disk.held(asked), MACHINE, NONE) == planned(asked, MACHINE).costs[0]
