"""What is wrong when an endpoint refuses in a way that will not pass, and what to do about it."""

from collections.abc import Sequence

from panscope.errors import ConfigError, NotFound, nearest


def refusal(where: str, status: int, moved_to: str, reason: str) -> ConfigError:
    """Tell a wrong key from a wrong address and from a question that cannot be asked there."""
    if status in (401, 403):
        do = "name the variable of a valid key in key_variable"
        return ConfigError(where, f"refuses the key ({status})", do)
    if moved_to:
        return ConfigError(where, f"has moved to {moved_to}", "correct base_url")
    return ConfigError(where, f"refuses the question ({status}: {reason})", "correct the recipe")


def missing(where: str, model: str, models: Sequence[str], reason: str) -> NotFound:
    """Tell a model that is not there from an address that is not."""
    if models and model not in models:
        return NotFound(where, f"has no model {model!r}", nearest(model, models))
    do = "correct base_url, which mostly ends in /v1, or the model"
    return NotFound(where, f"is not there (404: {reason})", do)
