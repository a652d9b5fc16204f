"""An explainer that needs no language model: it looks for the rule that foretells the activations.

A rule is a table from a key of each token to the activation to expect there: the token itself, the
token before it, both, what sort of token it is, how far into the document it stands, what kind of
text it is in. Each table is fitted on half of the windows shown and asked about the others, both
ways; the kind of rule whose forecasts correlate best is fitted on all. Its label says what the rule
says, no more, and it is honest about it: scores come from the rule itself.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from panscope.stages.explain.agreement import correlation, stands_out
from panscope.stages.explain.windows import Window

Key = Callable[[Window, int], str]
Keys = Sequence[Sequence[str]]
Values = Sequence[Sequence[float]]
PRIOR = 1.0  # tokens without activation that every key is thought to have been seen on besides
LISTED = 5  # keys named in a label
WEAKEST = 0.25  # of the strongest key: weaker ones are not named


@dataclass(frozen=True, slots=True)
class Rule:
    """A fitted rule: what it expects at each key, and the strength from which a window fires."""

    name: str
    table: Mapping[str, float]
    threshold: float

    @property
    def text(self) -> str:
        """The rule in words."""
        top = max(self.table.values(), default=0.0)
        strong = [key for key, value in self.table.items() if value > WEAKEST * top]
        return SAYS[self.name](sorted(strong, key=lambda key: (-self.table[key], key)))

    def strengths(self, windows: Sequence[Window]) -> list[list[float]]:
        """Foretell the activation at each token of some windows."""
        keys = _keys(self.name, windows)
        return [[self.table.get(key, 0.0) for key in row] for row in keys]

    def fires_in(self, windows: Sequence[Window]) -> list[bool]:
        """Foretell in which windows the feature fires."""
        return [max(values) >= self.threshold for values in self.strengths(windows)]

    def fires_at(self, windows: Sequence[Window], marked: Sequence[Sequence[int]]) -> list[bool]:
        """Say that marked tokens are right if more is expected there than elsewhere around."""
        told = zip(self.strengths(windows), marked, strict=True)
        return [stands_out(values, marks) for values, marks in told]


def explain(windows: Sequence[Window]) -> Rule:
    """Find the rule that foretells best what the windows show."""
    keyed = {name: _keys(name, windows) for name in KEYS}
    values = [window.values for window in windows]
    forecasts = {name: _forecast(keys, values) for name, keys in keyed.items()}
    best = max(forecasts, key=forecasts.__getitem__)  # the first, simplest, of equals
    table = _fitted(keyed[best], values)
    return Rule(best, table, _threshold(Rule(best, table, 0.0), windows))


def _keys(name: str, windows: Sequence[Window]) -> Keys:
    key = KEYS[name]
    return [[key(window, i) for i in range(len(window.pieces))] for window in windows]


def _forecast(keys: Keys, values: Values) -> float:
    """Fit on every second window, foretell the others, and the other way round."""
    expected: list[float] = []
    true: list[float] = []
    for fitted in (0, 1):
        table = _fitted(keys[fitted::2], values[fitted::2])
        expected += [table.get(key, 0.0) for row in keys[1 - fitted :: 2] for key in row]
        true += [value for row in values[1 - fitted :: 2] for value in row]
    return correlation(expected, true) or 0.0


def _fitted(keys: Keys, values: Values) -> dict[str, float]:
    """Average the activations at each key that has some."""
    counts = Counter(key for row in keys for key in row)
    sums: dict[str, float] = {}
    for row, strengths in zip(keys, values, strict=True):
        for key, value in zip(row, strengths, strict=True):
            if value and key:
                sums[key] = sums.get(key, 0.0) + value
    return {key: total / (counts[key] + PRIOR) for key, total in sums.items()}


def _threshold(rule: Rule, windows: Sequence[Window]) -> float:
    """Return half of what the rule expects at the peak of the windows that fire, on average."""
    peaks = [max(values) for values in rule.strengths([w for w in windows if w.fires])]
    return sum(peaks) / len(peaks) / 2 if any(peaks) else math.inf


def _token(window: Window, i: int) -> str:
    """Name a token, and whether it goes on with the word before it: “…ing”."""
    plain = _plain(window.pieces[i])
    seam = (window.pieces[i - 1][-1:] if i else "") + window.pieces[i][:1]
    return f"…{plain}" if len(seam) == 2 and seam.isalnum() else plain


def _before(window: Window, i: int) -> str:
    return _plain(window.pieces[i - 1]) if i else ""


def _pair(window: Window, i: int) -> str:
    return _plain(window.pieces[i - 1] + window.pieces[i]) if i else ""


def _sort(window: Window, i: int) -> str:
    return _sort_of(window.pieces[i])


@cache
def _sort_of(piece: str) -> str:
    word = piece.strip()
    if not word:
        return "line breaks" if "\n" in piece else "blanks"
    if any(character.isdigit() for character in word):
        return "numbers"
    if not any(character.isalpha() for character in word):
        return "punctuation"
    if word[0].isupper():
        return "capitalised words" if len(word) > 1 else "capital letters"
    return "beginnings of words" if piece[0].isspace() else "later parts of words"


def _sort_before(window: Window, i: int) -> str:
    return _sort(window, i - 1) if i else ""


def _depth(window: Window, i: int) -> str:
    """Double the depth from one step to the next: 0, 1, 2 to 3, 4 to 7 ..."""
    depth = window.since[i]
    low = 1 << depth.bit_length() >> 1
    return str(depth) if depth < 2 else f"{low} to {2 * low - 1}"


def _kind(window: Window, i: int) -> str:
    return window.kind


def _kind_and_sort(window: Window, i: int) -> str:
    return f"{_sort(window, i)} in {window.kind}"


@cache
def _plain(piece: str) -> str:
    """Take tokens that differ in case or in the blank before them for one.

    >>> _plain(" May"), _plain("\\n")
    ('may', '\\n')
    """
    return piece.strip(" ").casefold() or piece


def _quoted(keys: Sequence[str]) -> str:
    """Name some keys, the strongest first.

    >>> _quoted(["may", "line\\nbreak"])
    '“may”, “line↵break”'
    >>> _quoted(["\\0", *"abcde"])
    '“<00>”, “a”, “b”, “c”, “d” and 1 more'
    """
    named = [f"“{''.join(map(_visible, key))}”" for key in keys[:LISTED]]
    more = len(keys) - LISTED
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def _listed(names: Sequence[str]) -> str:
    """Join names as a sentence does.

    >>> _listed(["numbers"]), _listed(["numbers", "blanks", "punctuation"])
    ('numbers', 'numbers, blanks and punctuation')
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _by_kind(keys: Sequence[str]) -> str:
    """Name the sorts of tokens that are in one kind of text together.

    >>> _by_kind(["numbers in math", "punctuation in german", "blanks in math"])
    'numbers and blanks in math; punctuation in german'
    """
    sorts: dict[str, list[str]] = {}
    for key in keys:
        sort, _, kind = key.partition(" in ")
        sorts.setdefault(kind, []).append(sort)
    return "; ".join(f"{_listed(names)} in {kind}" for kind, names in sorts.items())


def _ranges(keys: Sequence[str]) -> str:
    """Name depths in their order, those that touch as one.

    >>> _ranges(["4 to 7", "1", "8 to 15"])
    '1 and 4 to 15'
    """
    spans: list[list[int]] = []
    for low, high in sorted((int(key.split()[0]), int(key.split()[-1])) for key in keys):
        if spans and low == spans[-1][1] + 1:
            spans[-1][1] = high
        else:
            spans.append([low, high])
    return " and ".join(f"{a} to {b}" if a < b else str(a) for a, b in spans)


def _visible(character: str) -> str:
    if character == "\n":
        return "↵"
    return character if character.isprintable() else f"<{ord(character):02X}>"


# In order of simplicity: of rules that foretell equally well the first is taken.
KEYS: dict[str, Key] = {
    "token": _token,
    "before": _before,
    "pair": _pair,
    "sort": _sort,
    "sort before": _sort_before,
    "depth": _depth,
    "kind": _kind,
    "kind and sort": _kind_and_sort,
}
SAYS: dict[str, Callable[[Sequence[str]], str]] = {
    "token": lambda keys: f"the token{'s' * (len(keys) > 1)} {_quoted(keys)}",
    "before": lambda keys: f"what comes after {_quoted(keys)}",
    "pair": lambda keys: f"the end of {_quoted(keys)}",
    "sort": lambda keys: _listed(keys[:LISTED]),
    "sort before": lambda keys: f"what comes after {_listed(keys[:LISTED])}",
    "depth": lambda keys: f"tokens {_ranges(keys)} of a document",
    "kind": lambda keys: f"text of the kind {_quoted(keys)}",
    "kind and sort": lambda keys: _by_kind(keys[:LISTED]),
}
