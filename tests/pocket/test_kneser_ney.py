from collections import Counter, defaultdict

import numpy as np
import pytest

import kneser_ney
from panscope.errors import ConfigError

N_IDS = 6


def a_row(length: int, seed: int = 0) -> np.ndarray:
    """Ids of which some are rarer than others, so that every count from 1 to 4 occurs."""
    rng = np.random.default_rng(seed)
    return rng.choice(N_IDS - 1, length, p=[0.4, 0.3, 0.2, 0.07, 0.03]).astype(np.uint16)


def slow_counts(row: list[int], n: int) -> list[Counter]:
    """Counts of 1- to n-grams: of the longest as they occur, of others by different ids before."""
    counts = [Counter(tuple(row[i : i + n]) for i in range(len(row) - n + 1))]
    while n > 1:
        counts.append(Counter(gram[1:] for gram in counts[-1]))
        n -= 1
    return counts[::-1]


def slow_discounts(counts: Counter) -> list[float]:
    n1, n2, n3, n4 = (sum(c == k for c in counts.values()) for k in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return [0.0, 0.5, 1.0, 1.5]
    y = n1 / (n1 + 2 * n2)
    raw = [0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    return [min(max(d, 0.0), k) for k, d in enumerate(raw)]


def slow_probability(row: list[int], n: int, history: tuple[int, ...], word: int) -> float:
    share = 1 / N_IDS
    for length, counts in enumerate(slow_counts(row, n), 1):
        discount = slow_discounts(counts)
        context = history[len(history) - length + 1 :]
        after = defaultdict(int)
        for gram, count in counts.items():
            if gram[:-1] == context:
                after[gram[-1]] = count
        total = sum(after.values())
        if total:
            taken = {each: discount[min(count, 3)] for each, count in after.items()}
            kept = (after[word] - taken[word]) / total if word in taken else 0.0
            share = kept + sum(taken.values()) / total * share
    return share


@pytest.mark.parametrize(("length", "n"), [(300, 3), (40, 3), (12, 5)])
def test_it_is_what_the_definition_says(length: int, n: int):
    row = a_row(length)
    read = np.array([*a_row(30, seed=1), N_IDS - 1, 0, 1, 0, 1])
    fast = kneser_ney.fit(row, N_IDS, n).probabilities(read)
    slow = [
        slow_probability(row.tolist(), n, tuple(read[end - n + 1 : end].tolist()), int(read[end]))
        for end in range(n - 1, len(read))
    ]
    np.testing.assert_allclose(fast, slow, rtol=1e-12)


@pytest.mark.parametrize("context", [(0, 1), (4, 4), (5, 0), (0, 5), (5, 5)])
def test_probabilities_sum_to_one_in_contexts_seen_and_unseen(context: tuple[int, int]):
    model = kneser_ney.fit(a_row(300), N_IDS, n=3)
    shares = [model.probabilities(np.array([*context, word]))[0] for word in range(N_IDS)]
    assert sum(shares) == pytest.approx(1, abs=1e-12)
    assert min(shares) > 0


def test_five_ids_of_twelve_bits_fit_and_no_more():
    row = np.arange(4096, dtype=np.uint16)
    last = kneser_ney.fit(row, 4096).probabilities(row[-5:])
    assert last[0] > 0.5
    with pytest.raises(ConfigError) as caught:
        kneser_ney.fit(row, 4097)
    assert str(caught.value) == (
        "kneser_ney.fit: 5 ids of 13 bits do not fit in 64 bits; take a shorter n-gram or fewer ids"
    )


def test_a_row_shorter_than_an_ngram_is_refused():
    with pytest.raises(ConfigError, match="a row of 4 ids; give at least 5"):
        kneser_ney.fit(a_row(4), N_IDS)
