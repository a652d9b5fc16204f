"""What others call the places in a model, without the model: to a Site and back.

| ours          | TransformerLens, SAELens     | Hugging Face, below model.layers.L (Gemma) |
|---------------|------------------------------|--------------------------------------------|
| embed         | hook_embed                   |                                            |
| resid_pre.L   | blocks.L.hook_resid_pre      | input                                      |
| attn_z.L      | blocks.L.attn.hook_z         | self_attn.o_proj.input                     |
| attn_out.L    | blocks.L.hook_attn_out       |                                            |
| resid_mid.L   | blocks.L.hook_resid_mid      |                                            |
| mlp_in_unit.L | blocks.L.ln2.hook_normalized |                                            |
| mlp_in.L      | blocks.L.hook_mlp_in         | pre_feedforward_layernorm.output           |
| mlp_out.L     | blocks.L.hook_mlp_out        | post_feedforward_layernorm.output          |
| resid_post.L  | blocks.L.hook_resid_post     | output                                     |

`hook_mlp_in` is what SAELens calls Gemma Scope 2's input, behind the norm. TransformerLens' names
are for models whose norms are not folded into other weights.
"""

import re

from panscope.errors import ConfigError, PanscopeError, Unsupported
from panscope.model.aliases import TRANSFORMER_LENS
from panscope.sites import ENDS, WHOLE_KINDS, Site
from panscope.stages.exchange.foreign import Foreign

HOOKS = {**TRANSFORMER_LENS, "blocks.L.hook_mlp_in": "mlp_in.L"}
MODULES = {
    "input": "resid_pre",
    "output": "resid_post",
    "self_attn.o_proj.input": "attn_z",
    "pre_feedforward_layernorm.output": "mlp_in",
    "post_feedforward_layernorm.output": "mlp_out",
}
LONGEST = 200  # of a site's name, which is a folder's
_OURS = {ours: theirs for theirs, ours in HOOKS.items()}


def site_of(name: str) -> Site:
    """Translate a hook's or a module's name; a path that has no name of ours stays a path.

    Raises ConfigError for text that is no name: it would become a folder's.
    """
    if len(name) > LONGEST or not re.fullmatch(r"\w+(\.\w+)*", name, re.ASCII):
        do = f"write letters, digits, _ and dots, {LONGEST} at most"
        raise ConfigError(f"hook {name!r}", "is no name", do)
    if found := re.fullmatch(r"model(?:\.language_model)?\.layers\.(\d+)\.(.+)", name):
        kind = MODULES.get(found[2])
        return Site(kind, int(found[1])) if kind else Site.parse(name)
    layer = re.fullmatch(r"blocks\.(\d+)(\..+)", name)
    theirs = f"blocks.L{layer[2]}" if layer else name
    ours = HOOKS.get(theirs, name)
    return Site.parse(ours.replace(".L", f".{layer[1]}") if layer else ours)


def hook_of(site: Site) -> str:
    """Return TransformerLens' name of a site, as SAELens writes it."""
    if site.is_path:
        return site.kind
    theirs = _OURS.get(site.kind if site.layer is None else f"{site.kind}.L")
    if theirs is None:
        do = "export Saes of other sites"
        raise Unsupported(f"site {site}", "has no name in TransformerLens", do)
    return theirs.replace("blocks.L", f"blocks.{site.layer}")


def ends_of(
    file: Foreign, reads: str | None, writes: str | None, layer: int | None = None
) -> tuple[tuple[Site], tuple[Site]]:
    """Return what a Sae reads and writes: as the user says, else as its file does.

    Names are sites, hooks, or kinds, which take the file's `layer`. Without `writes` it writes what
    it reads.
    """
    reads = file.ends.reads or reads
    writes = file.ends.writes or writes or reads
    if reads is None or writes is None:
        raise file.nameless("what its Sae reads")
    return (_placed(file, reads, layer),), (_placed(file, writes, layer),)


def _placed(file: Foreign, name: str, layer: int | None) -> Site:
    is_whole = "." in name or name in WHOLE_KINDS or name.endswith(ENDS)
    if not is_whole and layer is None and not name.startswith("hook_"):
        raise file.nameless("its layer")
    try:
        return site_of(name if is_whole or name.startswith("hook_") else f"{name}.{layer}")
    except PanscopeError as error:
        raise type(error)(f"{file.path}: {error.args[0]}", *error.args[1:]) from error
