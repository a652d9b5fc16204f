"""A label taken to the letter: the feature fires where the label's words stand, and nowhere else.

This is how a label that a person wrote is read where no language model is: the phrases in quotes,
or all its words if nothing is quoted. What it means beyond its words is not seen, and its score is
lower for it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from panscope.stages.explain.agreement import stands_out
from panscope.stages.explain.windows import Window

QUOTED = re.compile(r'“([^”]+)”|"([^"]+)"|‘([^’]+)’')


@dataclass(frozen=True, slots=True)
class Letter:
    """A label whose words are looked for, case aside."""

    text: str

    @property
    def phrases(self) -> list[str]:
        """What is looked for.

        >>> Letter('the token “May” or "of the"').phrases, Letter("names of months").phrases
        (['May', 'of the'], ['names', 'of', 'months'])
        """
        quoted = ["".join(groups).strip() for groups in QUOTED.findall(self.text)]
        return [phrase for phrase in quoted if phrase] or re.findall(r"\w+", self.text)

    def strengths(self, windows: Sequence[Window]) -> list[list[float]]:
        """Foretell 1 at each token in which a part of a phrase stands."""
        pattern = re.compile("|".join(map(_whole, self.phrases)) or r"(?!)", re.IGNORECASE)
        return [_marked(window, pattern) for window in windows]

    def fires_in(self, windows: Sequence[Window]) -> list[bool]:
        """Foretell that a window fires which has a phrase."""
        return [any(values) for values in self.strengths(windows)]

    def fires_at(self, windows: Sequence[Window], marked: Sequence[Sequence[int]]) -> list[bool]:
        """Say that marked tokens are right if more of them are of phrases than of all around."""
        told = zip(self.strengths(windows), marked, strict=True)
        return [stands_out(values, marks) for values, marks in told]


def _whole(phrase: str) -> str:
    """Match a phrase that is no part of a longer word; “…ing” matches within words only."""
    if phrase.startswith("…") and phrase != "…":
        return r"(?<=\w)" + re.escape(phrase[1:])
    before = r"(?<!\w)" if phrase[0].isalnum() else ""
    behind = r"(?!\w)" if phrase[-1].isalnum() else ""
    return before + re.escape(phrase) + behind


def _marked(window: Window, pattern: re.Pattern[str]) -> list[float]:
    ends = list(accumulate(map(len, window.pieces)))
    found = list(_spans(window, pattern))
    spans = zip([0, *ends], ends, strict=False)
    return [float(any(a < end and start < b for a, b in found)) for start, end in spans]


def _spans(window: Window, pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    yield from (match.span() for match in pattern.finditer("".join(window.pieces)))
