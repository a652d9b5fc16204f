"""Where a language model answers, and what asking it has cost."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from panscope import config
from panscope.errors import ConfigError


class Endpoint(config.Config):
    """Where a language model answers, how fast it may be asked, and what that costs."""

    base_url: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")] = "http://localhost:8000/v1"
    """Up to and without `/chat/completions`; vLLM, llama.cpp and Ollama serve `/v1`."""
    model: str = ""
    key_variable: str | None = None
    """The environment variable that holds the key; the key itself is written nowhere."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    answer_tokens: Annotated[int, Field(gt=0)] = 512
    """At most; what a model thinks before it answers counts, where it thinks."""
    more: str = "{}"
    """Other keys of a question, as JSON: such as `{"reasoning_effort": "low"}`."""
    at_once: Annotated[int, Field(gt=0, le=256)] = 8
    """Questions on their way together."""
    a_minute: Annotated[float, Field(gt=0)] = 600.0
    """Questions sent in a minute, at most."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    tries: Annotated[int, Field(gt=0)] = 6
    pause_seconds: Annotated[float, Field(ge=0)] = 1.0
    """Before the second try; it doubles from try to try."""
    dollars_in: Annotated[float, Field(ge=0)] = 0.0
    """For a million tokens of questions."""
    dollars_out: Annotated[float, Field(ge=0)] = 0.0
    """For a million tokens of answers."""
    most_dollars: Annotated[float, Field(ge=0)] | None = None
    """A run that has spent as much asks no more."""

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        """Refuse a host or port that cannot be one: ValueError says which."""
        if not urlsplit(url).hostname or urlsplit(url).port == 0:
            raise ValueError("name a host, and a port from 1 to 65535 or none")
        return url

    @field_validator("more")
    @classmethod
    def _holds_keys(cls, text: str) -> str:
        """Refuse what is no JSON object."""
        try:
            tree = json.loads(text)
        except ValueError as error:
            raise ValueError(f"write a JSON object ({error})") from error
        if not isinstance(tree, dict):
            raise ValueError("write a JSON object")
        return text

    def question(self, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """Lay out a question as the protocol has it."""
        return {
            "model": self.model,
            "messages": list(messages),
            "temperature": self.temperature,
            "max_tokens": self.answer_tokens,
            **json.loads(self.more),
        }


@dataclass(slots=True)
class Spent:
    """What a run has asked so far; `kept` counts answers found on disk, which cost nothing."""

    asked: int = 0
    kept: int = 0
    failed: int = 0
    cut: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    failed_in_a_row: int = 0
    why: str = ""
    """The reason of the last question that had no answer."""

    def dollars(self, endpoint: Endpoint) -> float:
        """Price the tokens."""
        millionths = self.tokens_in * endpoint.dollars_in + self.tokens_out * endpoint.dollars_out
        return millionths / 1e6

    def metrics(self, endpoint: Endpoint) -> dict[str, float]:
        """Lay it out for a display."""
        return {
            "dollars": self.dollars(endpoint),
            "asked": self.asked,
            "kept": self.kept,
            "no answer": self.failed,
            "cut off": self.cut,
            "tokens in": self.tokens_in,
            "tokens out": self.tokens_out,
        }

    def warnings(self, endpoint: Endpoint) -> Iterator[str]:
        """Say what was asked in vain, and why."""
        if self.cut:
            cut = f"answers cut off at {endpoint.answer_tokens} tokens: {self.cut:,}"
            yield f"{cut}; raise explain.endpoint.answer_tokens"
        if self.failed:
            yield f"questions without an answer: {self.failed:,}; the last one: {self.why}"


def key_of(endpoint: Endpoint) -> str:
    """Read the key from its variable; empty if none is named, ConfigError if it is not set."""
    if endpoint.key_variable is None:
        return ""
    if not (key := os.environ.get(endpoint.key_variable, "")):
        found = f"the variable {endpoint.key_variable} is not set"
        raise ConfigError("explain", found, "export it, or leave it out")
    return key
