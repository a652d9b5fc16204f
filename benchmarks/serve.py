"""What serving costs: time to start, pages under load, memory, the microscope.

    python benchmarks/serve.py [--short] [--features 200000] [--views 10000] [--write]

The run is made up (`large_run.py`). *Start*: from the command to the first answer. *Pages*: feature
pages of all Saes at random, asked for 50 times a second whether or not the last has come; times
count from when a page was due, and the first page of each Sae is a line of its own. *Memory*:
resident after so many page views. *Microscope*: a sentence through the pocket model and Saes at all
its 12 sites. The last line is JSON.
"""

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import local
from urllib.parse import urlparse

import large_run
from tables import machine, write_table

RATE, N_CLIENTS = 50, 16
SENTENCE = "The old woman set the lamp on the sill and listened to the rain."


@contextmanager
def serving(run: Path) -> Iterator[tuple[str, int, float]]:
    """Run the command on a run folder; give address, process id, seconds to its first answer."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "panscope", "serve", str(run), "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().partition(" at ")[2].split()[0]
        get(address, "/")
        yield address, process.pid, time.perf_counter() - begun
    finally:
        process.terminate()
        process.wait(20)


_mine = local()


def get(address: str, path: str, body: object = None) -> bytes:
    """Ask for a page over this thread's connection."""
    if getattr(_mine, "address", None) != address:
        _mine.address = address
        _mine.connection = http.client.HTTPConnection(urlparse(address).netloc, timeout=60)
    headers = {"content-type": "application/json"} if body else {}
    data = json.dumps(body) if body else None
    _mine.connection.request("POST" if body else "GET", path, data, headers)
    answer = _mine.connection.getresponse()
    read: bytes = answer.read()
    assert answer.status == 200, (path, answer.status, read[:300])
    return read


def in_ms(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - begun)


def width_of(name: str) -> int:
    return int(name.partition("/w")[2].partition("_")[0])


def paths(names: list[str], seed: int) -> Iterator[str]:
    """Feature pages at random, without end."""
    chosen = random.Random(seed)
    while True:
        name = chosen.choice(names)
        yield f"/sae/{name}/{chosen.randrange(width_of(name))}"


def under_load(address: str, asked: Iterator[str], n: int) -> list[float]:
    """Ask for `n` pages, RATE a second; return milliseconds from when each was due."""
    begun = time.perf_counter() + 0.1

    def one(number: int, path: str) -> float:
        due = begun + number / RATE
        time.sleep(max(0.0, due - time.perf_counter()))
        get(address, path)
        return 1000 * (time.perf_counter() - due)

    with ThreadPoolExecutor(N_CLIENTS) as clients:
        return list(clients.map(one, range(n), (next(asked) for _ in range(n))))


def views(address: str, asked: Iterator[str], n: int) -> None:
    """Ask for `n` pages as fast as they come."""
    with ThreadPoolExecutor(2) as clients:
        for _ in clients.map(lambda path: get(address, path), (next(asked) for _ in range(n))):
            pass


def resident_mb(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["VmRSS"].split()[0]) / 1024


def has_torch(process: int) -> bool:
    return "libtorch" in Path(f"/proc/{process}/maps").read_text()


def quantile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


LISTS = {
    "home_ms": "/",
    "sae_page_ms": "/sae/{sae}",
    "sae_list_ms": "/api/sae/{sae}/features?sort=max",
    "search_page_ms": "/search",
    "search_ms": "/api/search/features?text=w12&limit=50",
}


def lists(address: str, sae: str) -> dict[str, float]:
    asked = {name: path.format(sae=sae) for name, path in LISTS.items()}
    return {
        name: statistics.median(in_ms(lambda path=path: get(address, path)) for _ in range(9))
        for name, path in asked.items()
    }


def pages(run: Path, names: list[str], n_loaded: int, n_views: int) -> dict[str, float]:
    with serving(run) as (address, process, _):
        first = [in_ms(lambda name=name: get(address, f"/sae/{name}/0")) for name in names]
        listed = lists(address, names[-1])
        times = under_load(address, paths(names, 1), n_loaded)
        views(address, paths(names, 2), n_views)
        assert not has_torch(process), "browsing has loaded torch"
        return {
            "first_page_ms": max(first),
            "page_p50_ms": statistics.median(times),
            "page_p99_ms": quantile(times, 0.99),
            **listed,
            "resident_mb": resident_mb(process),
        }


def starts(run: Path, n: int) -> float:
    seconds = []
    for _ in range(n):
        with serving(run) as (_, process, taken):
            seconds.append(taken)
            assert not has_torch(process), "the first page has loaded torch"
    return statistics.median(seconds)


def microscope(folder: Path, n: int) -> dict[str, float]:
    """Times of a sentence at all 12 sites of the pocket model; the first loads model and Saes."""
    saes = large_run.make_live(folder)
    body = {"text": SENTENCE, "k": 5, "saes": saes}
    with serving(folder) as (address, _, _):
        first = in_ms(lambda: get(address, "/api/microscope", body))
        times = [in_ms(lambda: get(address, "/api/microscope", body)) for _ in range(n)]
        return {
            "microscope_first_ms": first,
            "microscope_ms": statistics.median(times),
            "microscope_p99_ms": quantile(times, 0.99),
        }


LIMITS = {
    "start_seconds": 1.0,
    "page_p50_ms": 15.0,
    "page_p99_ms": 60.0,
    "resident_mb": 400.0,
    "microscope_ms": 150.0,
}


def table(measured: dict[str, float]) -> list[str]:
    rows = [
        f"| {name} | {value:.3g} | {LIMITS.get(name, '–')} |" for name, value in measured.items()
    ]
    return ["| | measured | limit |", "|---|---:|---:|", *rows]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--features", type=int, default=200_000)
    parser.add_argument("--saes", type=int, default=12)
    parser.add_argument("--views", type=int, default=10_000)
    parser.add_argument("--run", type=Path, help="One that large_run.py made, to spare the making.")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    n_views = min(asked.views, 2_000) if asked.short else asked.views
    with tempfile.TemporaryDirectory() as temporary:
        run = asked.run or Path(temporary) / "large"
        if asked.run is None:
            large_run.make(run, asked.features, asked.saes, asked.features // 4)
        names = large_run.names_of(run)
        measured = {"start_seconds": starts(run, 3 if asked.short else 7)}
        measured |= pages(run, names, 500 if asked.short else 2_000, n_views)
        measured |= microscope(Path(temporary) / "live", 20 if asked.short else 100)
    lines = table(measured)
    print("\n".join(lines))
    facts = {"features": sum(map(width_of, names)), "views": n_views, "machine": machine()}
    print(json.dumps({"benchmark": "serve", **facts, **measured, "limits": LIMITS}))
    if asked.write:
        write_table("serve", "\n".join([machine(), "", *lines]))


if __name__ == "__main__":
    main()
