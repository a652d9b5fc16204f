"""An n-gram model over token ids, the yardstick beside the pocket model: interpolated modified
Kneser-Ney, in sorted arrays.

1. Count the n-grams of the highest order as they occur; count a shorter one by how many different
   ids it was seen to follow (its continuation count).
2. For each order, take three discounts D1, D2, D3+ from how many n-grams have counts 1, 2, 3, 4.
3. p(w | h) = max(c(hw) - D, 0) / c(h) + left_over(h) p(w | h without its first id), down to one
   share in `n_ids` for every id; left_over(h) is what the discounts took from h's n-grams.

An n-gram is kept as one number, its ids as digits, the last id lowest: sorting groups n-grams by
context, a shift leaves the context, a mask drops the first id. Five ids of 12 bits fit in 64.

Source: Chen and Goodman 1999, "An empirical study of smoothing techniques for language modeling",
Computer Speech & Language 13, section 3. Departure: the markers of a document's start are counted
as any other id, because the pocket model too reads documents joined into one row.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from panscope.errors import ConfigError

Ids = NDArray[np.integer]
Grams = NDArray[np.uint64]
Shares = NDArray[np.float64]

# Chen and Goodman's estimate needs n-grams of each count up to 4; a tiny corpus may have none.
USUAL_DISCOUNTS = np.array([0.0, 0.5, 1.0, 1.5])


@dataclasses.dataclass(frozen=True)
class Order:
    """The n-grams of one length: `kept` goes with `grams`, `left_over` with `contexts`."""

    grams: Grams  # ascending
    kept: Shares
    contexts: Grams  # ascending
    left_over: Shares


@dataclasses.dataclass(frozen=True)
class KneserNey:
    """A fitted model; `orders` from single ids to the longest n-grams."""

    orders: tuple[Order, ...]
    n_ids: int

    def probabilities(self, row: Ids) -> Shares:
        """Give the probability of each id of the row that has a whole context before it."""
        bits, n = bits_of(self.n_ids), len(self.orders)
        shares = np.full(len(row) - n + 1, 1 / self.n_ids)
        for length, order in enumerate(self.orders, 1):
            grams = grams_of(row[n - length :], length, bits)
            contexts = grams >> np.uint64(bits)
            left_over = found(order.contexts, order.left_over, contexts, missing=1.0)
            shares = found(order.grams, order.kept, grams, missing=0.0) + left_over * shares
        return shares


def fit(row: Ids, n_ids: int, n: int = 5) -> KneserNey:
    """Count a row of ids; its first `n - 1` serve as context only."""
    bits = bits_of(n_ids)
    if n * bits > 64:
        found_bits = f"{n} ids of {bits} bits do not fit in 64 bits"
        raise ConfigError("kneser_ney.fit", found_bits, "take a shorter n-gram or fewer ids")
    if len(row) < n:
        raise ConfigError("kneser_ney.fit", f"a row of {len(row)} ids", f"give at least {n}")
    orders = []
    grams, counts = np.unique(grams_of(row, n, bits), return_counts=True)
    for length in range(n, 0, -1):
        orders.append(order_of(grams, counts, bits))
        without_first = grams & np.uint64((1 << (length - 1) * bits) - 1)
        grams, counts = np.unique(without_first, return_counts=True)
    return KneserNey(tuple(reversed(orders)), n_ids)


def bits_of(n_ids: int) -> int:
    """Say how many bits an id needs."""
    return max(1, (n_ids - 1).bit_length())


def grams_of(row: Ids, length: int, bits: int) -> Grams:
    """Pack every `length` neighbours of the row into one number."""
    grams = np.zeros(len(row) - length + 1, np.uint64)
    for place in range(length):
        grams = (grams << np.uint64(bits)) | row[place : place + len(grams)].astype(np.uint64)
    return grams


def order_of(grams: Grams, counts: NDArray[np.int64], bits: int) -> Order:
    """Discount the counts of one length of n-grams, and share them out within each context."""
    contexts, firsts = np.unique(grams >> np.uint64(bits), return_index=True)
    taken = discounts_of(counts)[np.minimum(counts, 3)]
    totals = np.add.reduceat(counts, firsts)
    total_of_gram = np.repeat(totals, np.diff(firsts, append=len(grams)))
    left_over = np.add.reduceat(taken, firsts) / totals
    return Order(grams, (counts - taken) / total_of_gram, contexts, left_over)


def discounts_of(counts: NDArray[np.int64]) -> Shares:
    """Estimate what to take from a count of 0 (nothing), 1, 2, and 3 or more."""
    n1, n2, n3, n4 = (float(n) for n in np.bincount(np.minimum(counts, 5), minlength=6)[1:5])
    if 0 in (n1, n2, n3, n4):
        return USUAL_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    estimate = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.clip(estimate, 0, np.arange(4))


def found(keys: Grams, values: Shares, wanted: Grams, missing: float) -> Shares:
    """Look each wanted key up among the ascending keys."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], missing)
