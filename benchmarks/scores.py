"""What it costs to search features by the scores of their labels, and to write such labels.

    python benchmarks/scores.py RUN [--labels 200000]

RUN is one that `large_run.py` made; labels are written into its notes, by rules that do not exist,
each with three scores and as much beside them as `explain` keeps. A search goes the way of
`GET /api/search/features`, without its socket; the first one, which reads columns, is left out.
"""

import argparse
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import large_run
import numpy as np
from fastapi.testclient import TestClient

from panscope.atlas.labels import Label, Score
from panscope.atlas.notes import Notes
from panscope.web.app import create_app

GROUP, N_TIMES = 256, 5
SCORERS, DETAILS = ("detection", "fuzzing", "simulation"), (1_224, 763, 1_499)  # characters
RANGES = ((0.95, ""), (0.9, "detection"), (0.5, "detection"), (0.0, "detection"), (0.5, ""))


def write(run: Path, saes: list[str], n_labels: int) -> float:
    """Write labels into the notes of a run, evenly over its Saes; return how many a second."""
    random, begun = np.random.default_rng(0), time.monotonic()
    n_each = n_labels // len(saes)
    with closing(Notes.open(run / "notes.sqlite")) as notes:
        for sae in saes:
            values = random.random((n_each, len(SCORERS)))
            labels = [label(sae, index, of.tolist()) for index, of in enumerate(values)]
            for first in range(0, n_each, GROUP):
                notes.add_all(labels[first : first + GROUP])
    return n_each * len(saes) / (time.monotonic() - begun)


def label(sae: str, index: int, values: list[float]) -> Label:
    scores = tuple(
        Score(scorer, value, 0.5, 20, 0, "panscope", f'"{"x" * (n_characters - 2)}"')
        for scorer, value, n_characters in zip(SCORERS, values, DETAILS, strict=True)
    )
    return Label(sae, index, f"the word number {index}", "panscope", "rules", scores=scores)


def search(client: TestClient, least: float, scorer: str) -> str:
    """Search all Saes several times; say what was found, and medians of both clocks."""
    query, wall, processor = {"min_score": least, "scorer": scorer, "limit": 50}, [], []
    for _ in range(N_TIMES + 1):
        begun = time.perf_counter(), time.process_time()
        answer = client.get("/api/search/features", params=query)
        wall.append(time.perf_counter() - begun[0])
        processor.append(time.process_time() - begun[1])
    took = f"{median(wall[1:]) * 1e3:7.1f} ms, {median(processor[1:]) * 1e3:7.1f} of a core"
    return f"{answer.json()['total']:>8,} found, {took}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--labels", type=int, default=200_000)
    asked = parser.parse_args()
    saes = large_run.names_of(asked.run)
    if not (asked.run / "notes.sqlite").exists():
        print(f"written: {write(asked.run, saes, asked.labels):,.0f} labels a second")
    with TestClient(create_app(asked.run)) as client:
        for least, scorer in RANGES:
            print(
                f"{scorer or 'best of all':>12} from {least:.2f}: {search(client, least, scorer)}"
            )
        print(f"{'no score':>12} asked for: {search(client, -1.0, '')}")


if __name__ == "__main__":
    main()
