"""The start from a Sae that is trained already: ours or a foreign one, of this model or its kin.

Gemma Scope 2 begins the Saes of an instruction-tuned model at those of the model it was tuned from,
and the paper before it found them transferable (Lieberum et al. 2024, arXiv:2408.05147, section
4.4). What stands in the file is folded (raw units); training's form is got back by this run's own
scales, decoder rows brought to unit norm and the pre-encoder bias taken out again. At step 0 that
is the same function, except where an architecture has no room: relu and topk drop thresholds.
"""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from panscope.dist import ALONE, Group
from panscope.errors import ConfigError, NotFound, nearest
from panscope.kernels.pairs import Decoder, Encoder
from panscope.sae.sae import Sae, unfold
from panscope.sae.suite import Suite
from panscope.stages.train.architectures import Architecture, Vectors
from panscope.stages.train.sweep import Spec

Scale = Tensor


def found(folder: Path, spec: Spec) -> Sae:
    """Load of a suite the Sae of a spec's sites and width; of several, the one of the same name.

    Raises NotFound if there is none, ConfigError if several could be meant.
    """
    suite = Suite.open(folder)
    sites = [[str(site) for site in ends] for ends in (spec.reads, spec.writes)]
    alike = [
        name
        for name, fact in suite.facts.items()
        if [fact["reads"], fact["writes"]] == sites and fact["width"] == spec.width
    ]
    where = f"train.begin_from {folder}"
    if not alike:
        what = f"no Sae of width {spec.width} that reads {sites[0]} and writes {sites[1]}"
        raise NotFound(where, what, nearest(spec.sae, suite.names))
    if len(alike) > 1 and spec.sae not in alike:
        do = "give a suite with one of them"
        raise ConfigError(where, f"{spec.sae} could begin from {' or '.join(alike)}", do)
    return suite.load(spec.sae if spec.sae in alike else alike[0])


def begun(
    spec: Spec, sae: Sae, read: Scale, written: Scale, row: Architecture, group: Group = ALONE
) -> tuple[Encoder, Decoder, Vectors]:
    """Return the rows and vectors that make a trained Sae in training; of a group, this shard's."""
    _refuse_another_shape(spec, sae, read, written)
    trained = _with_unit_rows(unfold(sae, read.cpu(), written.cpu()))
    shard = spec.width // group.size
    here = slice(group.rank * shard, (group.rank + 1) * shard)
    w_enc, w_dec = trained.w_enc.T[here].contiguous(), trained.w_dec[here].contiguous()
    b_enc = trained.b_enc[here]
    if spec.centres:
        b_enc = b_enc + w_enc @ trained.b_dec
    skip = {} if trained.skip is None else {"skip": trained.skip}
    vectors = row.begun(b_enc, trained.threshold[here].clone())
    return w_enc, w_dec, {**vectors, "b_dec": trained.b_dec, **skip}


def _refuse_another_shape(spec: Spec, sae: Sae, read: Scale, written: Scale) -> None:
    if sae.size is not None:
        found = "has biases in each token's own size, which no training here keeps"
        raise ConfigError(f"train.begin_from: {spec.sae}", found, "begin from another suite")
    wanted, has = (len(read), len(written)), (len(sae.w_enc), len(sae.b_dec))
    if wanted != has:
        found = (
            f"reads {has[0]} numbers and writes {has[1]}, the model has {wanted[0]}, {wanted[1]}"
        )
        raise ConfigError(f"train.begin_from: {spec.sae}", found, "name a suite of such a model")
    if (sae.skip is not None) != (spec.saes.kind == "skip_transcoder"):
        does = "has no skip connection" if sae.skip is None else "has a skip connection"
        do = f"set train.kind to {'transcoder' if sae.skip is None else 'skip_transcoder'}"
        raise ConfigError(f"train.begin_from: {spec.sae}", does, do)


def _with_unit_rows(sae: Sae) -> Sae:
    norms = sae.w_dec.norm(dim=1).clamp_min(1e-8)
    w_dec, threshold = sae.w_dec / norms[:, None], sae.threshold * norms
    return replace(
        sae, w_enc=sae.w_enc * norms, b_enc=sae.b_enc * norms, w_dec=w_dec, threshold=threshold
    )
