"""Describe a Sae whole, by one library, in a process of its own.

    python benchmarks/describers.py NAME FOLDER

FOLDER holds what `prepare` wrote: a GPT-2 of one layer, a Sae and tokens, all at random. A JSON
object comes out: seconds, by the clock and of the processor, from loaded weights to all that the
library tells of every feature, and memory. What both must agree on is written into FOLDER. It
imports nothing that SAEDashboard's environment lacks: that needs an older transformers, so it has
one of its own.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

D, VOCAB, CONTEXT, L0, ROWS = 256, 4_096, 128, 20, 32
SAE = "resid_post.0/a"


class Given(NamedTuple):
    """Tokens, and a Sae without biases: unit rows that encode and decode, one threshold."""

    ids: Tensor
    rows: Tensor
    threshold: float


class Told(NamedTuple):
    """What a library says of every feature, as far as both say it."""

    density: Tensor
    maximum: Tensor


def prepare(folder: Path, tokens: int, width: int) -> None:
    """Write a model, a Sae of which about L0 latents fire, and tokens, none of them special."""
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCAB, n_positions=CONTEXT, n_embd=D, n_layer=1, n_head=4,
        initializer_range=0.2, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    lm = GPT2LMHeadModel(config).eval()
    lm.save_pretrained(folder)
    ids = torch.randint(3, VOCAB, (tokens // CONTEXT, CONTEXT))
    rows = normalize(torch.randn(width, D), dim=1)
    with torch.no_grad():
        embedded = lm.transformer.wte(ids[:8]) + lm.transformer.wpe.weight
        z = lm.transformer.h[0](embedded).reshape(-1, D) @ rows.T
    threshold = float(z.flatten()[: 1 << 20].quantile(1 - L0 / width))
    torch.save(Given(ids, rows, threshold)._asdict(), folder / "given.pt")


Read = Callable[[], Told]
"""Reads what has been told; not timed."""


def panscope(folder: Path, given: Given) -> Callable[[], Read]:
    """Describe into an Atlas on the disk."""
    from panscope import files
    from panscope.atlas.features import Atlas
    from panscope.events import silent
    from panscope.model.folder import pocket_file
    from panscope.model.load import Config, load
    from panscope.model.text import Rows
    from panscope.sae.sae import Sae
    from panscope.sae.suite import KIND, Suite, write_sae
    from panscope.sites import Site
    from panscope.stages import describe

    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes(pocket_file(name).read_bytes())
    zeros, site = torch.zeros(len(given.rows)), (Site("resid_post", 0),)
    thresholds = zeros + given.threshold
    sae = Sae(given.rows.T, zeros, given.rows, torch.zeros(D), thresholds, site, site)
    write_sae(folder / "suite", SAE, sae)
    fact = {"sae": SAE, "site": str(site[0]), "width": len(zeros), "scale": given.threshold}
    files.seal(folder / "suite", KIND, {}, {}, {"saes": [fact]})

    def rows_from(row: int) -> Iterator[Rows]:
        for first in range(row, len(given.ids), ROWS):
            ids = given.ids[first : first + ROWS]
            documents = torch.arange(first, first + len(ids))[:, None].expand_as(ids)
            yield Rows(ids, documents, torch.ones_like(ids, dtype=torch.bool), ("",) * len(ids))

    settings = describe.Config(tokens=given.ids.numel(), batch_rows=ROWS)
    model, suite = load(Config(name=str(folder))), Suite.open(folder / "suite")
    work = describe.Work(settings, model, suite, rows_from, {}, {}, folder / "atlas", silent)

    def run() -> Read:
        describe.run(work)
        return read

    def read() -> Told:
        table = Atlas(work.out).column(SAE, "density", "max")
        return Told(*(torch.tensor(column.to_pylist()) for column in table.columns))

    return run


def sae_dashboard(folder: Path, given: Given) -> Callable[[], Read]:
    """Describe into objects in memory."""
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner
    from sae_lens import HookedSAETransformer, JumpReLUSAE, JumpReLUSAEConfig
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
    from transformers import GPT2LMHeadModel

    config = HookedTransformerConfig(
        n_layers=1, d_model=D, n_heads=4, d_head=D // 4, d_mlp=4 * D, d_vocab=VOCAB, n_ctx=CONTEXT,
        act_fn="gelu_new", normalization_type="LN", device="cpu",
    )  # fmt: skip
    model = HookedSAETransformer(config)
    weights = convert_gpt2_weights(GPT2LMHeadModel.from_pretrained(folder), config)
    model.load_state_dict(weights, strict=False)  # masks are no weights of GPT-2
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=D, d_sae=len(given.rows), device="cpu"))
    sae.cfg.metadata.hook_name = hook = "blocks.0.hook_resid_post"
    with torch.no_grad():
        sae.W_enc.copy_(given.rows.T)
        sae.W_dec.copy_(given.rows)
        sae.threshold.fill_(given.threshold)
    settings = SaeVisConfig(
        hook_point=hook, features=range(len(given.rows)), minibatch_size_tokens=ROWS
    )

    def run() -> Read:
        data = SaeVisRunner(settings).run(encoder=sae, model=model, tokens=given.ids)
        stats = data.feature_stats
        return lambda: Told(torch.tensor(stats.frac_nonzero), torch.tensor(stats.max))

    return run


DESCRIBERS = {"panscope": panscope, "SAEDashboard": sae_dashboard}


def peak_bytes() -> int:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    run = DESCRIBERS[name](folder, Given(**torch.load(folder / "given.pt")))
    loaded, began, worked = peak_bytes(), time.perf_counter(), time.process_time()
    read = run()
    seconds, processor, peak = (
        time.perf_counter() - began,
        time.process_time() - worked,
        peak_bytes(),
    )
    torch.save(read()._asdict(), folder / f"{name}.pt")
    took = {"seconds": seconds, "processor": processor, "peak": peak, "loaded": loaded}
    print(json.dumps(took))


if __name__ == "__main__":
    main()
