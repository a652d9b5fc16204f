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
    openai,
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
    openai,
    dictionary_learning,
)
WRITABLE = {form.NAME: form for form in FORMATS if hasattr(form, "write")}


def format_of(file: Foreign) -> ModuleType | None:
    """Return the format that knows a file's arrays, or None."""
    return next((form for form in FORMATS if form.detect(file)), None)


def writable(name: str) -> ModuleType:
    """Return a format that can be written, by name."""
    if name not in WRITABLE:
        raise ConfigError(f"format {name}", "is not one that is written", nearest(name, WRITABLE))
    return WRITABLE[name]
