"""Which parts of a feature's page are shown inside another site's page."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self


@dataclass(frozen=True, slots=True)
class Embed:
    """What of a feature's page is shown inside another site's page; all of it otherwise."""

    on: bool = False
    explanation: bool = True
    plots: bool = True
    test: bool = True
    activations: bool = True
    link: bool = True
    steer: bool = True

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """Read Neuronpedia's parameters: `embed=true`, then `embedplots=false` and the like."""
        if query.get("embed") != "true":
            return cls()
        parts = [field.name for field in fields(cls)][1:]
        return cls(True, **{part: query.get(f"embed{part}") != "false" for part in parts})
