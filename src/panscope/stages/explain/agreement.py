"""How well what was foretold agrees with what is true."""

import math
from collections.abc import Sequence


def balanced_accuracy(answers: Sequence[tuple[bool, bool]]) -> float | None:
    """Average the share told right over what is true and what is not; None without both.

    >>> balanced_accuracy([(True, True), (True, False), (False, False)])
    0.75
    """
    rates = []
    for side in (True, False):
        told = [answer == truth for truth, answer in answers if truth is side]
        if not told:
            return None
        rates.append(sum(told) / len(told))
    return sum(rates) / 2


def correlation(expected: Sequence[float], true: Sequence[float]) -> float | None:
    """Return Pearson's correlation: zero if all expected is alike, None if all true is.

    >>> correlation([0, 1, 2], [0, 2, 4])
    1.0
    """
    n = len(true)
    mean_e, mean_t = sum(expected) / max(n, 1), sum(true) / max(n, 1)
    away = [(e - mean_e, t - mean_t) for e, t in zip(expected, true, strict=True)]
    square_e, square_t = sum(e * e for e, _ in away), sum(t * t for _, t in away)
    if square_t == 0:
        return None
    return sum(e * t for e, t in away) / math.sqrt(square_e * square_t) if square_e else 0.0


def stands_out(values: Sequence[float], marked: Sequence[int]) -> bool:
    """Whether more is expected at the marked places than at all of them, on average.

    >>> stands_out([0, 3, 1], [1]), stands_out([0, 3, 1], [0, 2]), stands_out([0, 0], [1])
    (True, False, False)
    """
    at_marks = sum(values[i] for i in marked) / max(len(marked), 1)
    return at_marks > sum(values) / max(len(values), 1)
