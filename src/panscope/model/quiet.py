"""What transformers has to say: off the terminal, and its failures as sentences of ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import transformers
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError

from panscope.errors import Corrupt, NotFound, Unsupported


def first_line(error: Exception) -> str:
    """Return what another library has to say, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and notes off the terminal while loading."""
    level = transformers.logging.get_verbosity()
    has_bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if has_bars:
            transformers.logging.enable_progress_bar()


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn the ways in which loading fails into sentences."""
    where = f"model {name}"
    try:
        yield
    except SafetensorError as error:
        raise Corrupt(where, f"its weights are damaged ({error})", "fetch them again") from error
    except (OSError, HFValidationError) as error:
        found = first_line(error)
        do = "give a folder with config.json, or a Hub id while the network is there"
        raise NotFound(where, f"cannot be loaded ({found})", do) from error
    except (ValueError, RuntimeError, TypeError, LookupError, AttributeError) as error:
        # transformers meets a file that is JSON but not what it expects with any of these
        found = f"cannot be loaded ({first_line(error)})"
        raise Unsupported(where, found, "check that the folder holds one whole model") from error
