"""The foreign formats: which there are, and which one a file is of, by what is in it.

A format is a module with NAME, detect and read, and write where it can be written.
"""

from types import ModuleType

from panscope.errors import ConfigError, nearest
from panscope.stages.exchange import (
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    llamascopium,
    neuronpedia,
    openai,
    sae_dashboard,
    saelens,
    sparsify,
)
from panscope.stages.exchange.foreign import Foreign

FORMATS: tuple[ModuleType, ...] = (
    gemma_scope,
    gemma_scope_2,
    saelens,
    sparsify,
    llama_scope,
    llamascopium,
    openai,
    dictionary_learning,
)
OF_FEATURES = {form.NAME: form for form in (neuronpedia, sae_dashboard)}
WRITABLE = {form.NAME: form for form in FORMATS if hasattr(form, "write")}


def format_of(file: Foreign) -> ModuleType | None:
    """Return the format that knows a file's arrays, or None."""
    return next((form for form in FORMATS if form.detect(file)), None)


def writable(name: str, kind: str) -> ModuleType:
    """Return a format in which a suite or an atlas can be written, by name."""
    known = OF_FEATURES if kind == "atlas" else WRITABLE
    if name not in known:
        raise ConfigError(f"format {name}", f"is not one of those for {kind}", nearest(name, known))
    return known[name]
