"""Training that is stopped, killed, filled up or poisoned: the same bits, or one sentence."""

import errno
import itertools
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from panscope import files
from panscope.dist import Share
from panscope.errors import ConfigError, Corrupt, Incomplete, Interrupted, PanscopeError
from panscope.events import Advanced, Event, Finished, Measured, Started, Warned, silent
from panscope.sites import Site
from panscope.stages import train
from panscope.stages.train import checkpoint, pace, sweep
from panscope.stages.train.guard import Guard, check_weights
from panscope.stages.train.loop import SCALE_BATCHES
from panscope.stages.train.objective import Config, Saes, Schedule
from panscope.stages.train.stop import listening
from panscope.stages.train.watch import Aim, Reading, Watch, problems

SCRIPT = Path(__file__).with_name("killed_train.py")
SCENE = runpy.run_path(str(SCRIPT))
CONFIG: Config = SCENE["CONFIG"]
SITES: tuple[Site, Site] = SCENE["SITES"]
N_STEPS: int = SCENE["N_STEPS"]
run: Callable[..., None] = SCENE["run"]
work: Callable[..., train.Work] = SCENE["work"]
batches_from: Callable[..., Iterator[dict[Site, Tensor]]] = SCENE["batches_from"]
banks: Callable[..., Any] = SCENE["banks"]
LONGER_TWIN = Saes(
    sites=("mlp_out.1",), widths=CONFIG.widths, target_l0=(2.0,), tokens=2 * CONFIG.tokens
)
LATER = CONFIG.checkpoint_steps * 3 + 2  # a step with two checkpoints behind it and none at it


def bytes_of(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(autouse=True)
def _hears_sigint() -> Iterator[None]:
    """What a shell runs in the background ignores SIGINT, and so would training."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[Event]]:
    """What an uninterrupted run writes, and what it says."""
    folder, events = tmp_path_factory.mktemp("whole"), list[Event]()
    run(folder, emit=events.append)
    return bytes_of(folder), events


def acting(at: int, act: Callable[[dict[Site, Tensor]], None]) -> Any:
    """Give a stream that does something to the batch of a step, counted from 1, of a pass."""

    def stream(first: int, sites: tuple[Site, ...]) -> Iterator[dict[Site, Tensor]]:
        for step, batch in enumerate(batches_from(first, sites), first + 1):
            if step == at:
                act(batch)
            yield batch

    return stream


def sending(number: int, at: int) -> Any:
    return acting(at, lambda _: os.kill(os.getpid(), number))


def checkpoints(out: Path, bank: int = 0) -> list[str]:
    return sorted(path.name for path in checkpoint.folder_of(out, bank).iterdir())


def step_file(step: int) -> str:
    return f"step-{step:08d}.safetensors"


def stopped_at(out: Path, step: int, number: int = signal.SIGTERM) -> Interrupted:
    with pytest.raises(Interrupted) as stopped:
        run(out, batches=sending(number, step))
    return stopped.value


def test_batches_are_let_go_once_they_are_trained_on(tmp_path: Path):
    """Also the first ones, from which scales are made: of a large suite they are gigabytes."""
    alive: dict[int, int] = {}

    def stream(first: int, sites: tuple[Site, ...]) -> Iterator[dict[Site, Tensor]]:
        given = []
        for step, batch in enumerate(batches_from(first, sites), first + 1):
            copies = {site: part.clone() for site, part in batch.items()}
            given.append(weakref.ref(next(iter(copies.values()))))
            yield copies
            del copies
            alive[step] = sum(ref() is not None for ref in given)

    run(tmp_path, batches=stream)
    assert len(alive) >= N_STEPS - 1
    assert max(alive[step] for step in alive if step > SCALE_BATCHES) == 1, "the one in hand"


# Killed


def test_killed_at_any_instant_it_ends_with_the_same_bytes(tmp_path: Path):
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["at instants"] >= 10
    uninterrupted = bytes_of(tmp_path / "whole")
    resumed = [path for path in tmp_path.iterdir() if path.is_dir() and path.name != "whole"]
    assert len(resumed) == SCENE["AT_INSTANTS"] + SCENE["AT_TIMES"]
    for folder in resumed:
        assert bytes_of(folder) == uninterrupted, folder


def test_metrics_of_a_resumed_run_are_those_of_one_that_was_not_stopped(
    whole: tuple[dict[str, bytes], list[Event]], tmp_path: Path
):
    def measured(events: list[Event]) -> list[Measured]:
        return [event for event in events if isinstance(event, Measured)]

    events: list[Event] = []
    with pytest.raises(Interrupted):
        run(tmp_path, emit=events.append, batches=sending(signal.SIGTERM, LATER))
    run(tmp_path, emit=events.append)
    assert measured(events) == measured(whole[1])
    assert len(measured(events)) == 2 * 3  # after 20, 40 and 50 steps of either bank


# Stopped


@pytest.mark.parametrize(
    ("number", "code", "at"),
    [
        (signal.SIGINT, 130, LATER),
        (signal.SIGTERM, 143, 1),
        (signal.SIGTERM, 143, CONFIG.checkpoint_steps),
    ],
)
def test_a_signal_stops_it_after_the_step_and_it_goes_on(
    whole: tuple[dict[str, bytes], list[Event]],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
    at: int,
):
    before = signal.getsignal(number)
    error = stopped_at(tmp_path, at, number)
    assert f"train: {number.name} stopped it after step {at} of {N_STEPS} of bank 1 of 2" in str(
        error
    )
    assert "run the same command again and it goes on from there" in str(error)
    assert error.exit_code == code
    assert signal.getsignal(number) is before
    assert checkpoints(tmp_path)[-1] == step_file(at)
    run(tmp_path)
    assert bytes_of(tmp_path) == whole[0]


def test_a_second_sigint_does_not_wait(tmp_path: Path):
    def twice(_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, batches=acting(LATER, twice))
    assert checkpoints(tmp_path)[-1] == step_file(CONFIG.checkpoint_steps * 3)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_in_a_banks_last_step_stops_it_before_the_next(
    whole: tuple[dict[str, bytes], list[Event]], tmp_path: Path
):
    assert "before bank 2 of 2" in str(stopped_at(tmp_path, N_STEPS))
    assert not checkpoint.folder_of(tmp_path, 0).exists()
    run(tmp_path)
    assert bytes_of(tmp_path) == whole[0]


def test_a_signal_in_the_very_last_step_still_stops_what_comes_after(tmp_path: Path):
    config = CONFIG.model_copy(update={"sites": ("resid_post.0",), "more": ()})
    with pytest.raises(Interrupted, match="after its last step"):
        run(tmp_path, config, batches=sending(signal.SIGTERM, N_STEPS))
    assert (tmp_path / files.MANIFEST).is_file()


def test_beside_the_main_thread_there_are_no_handlers():
    seen: list[object] = []

    def look() -> None:
        with listening() as stop:
            seen.extend((signal.getsignal(signal.SIGTERM), stop.by))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM), None]


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with listening() as stop:
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.by is None
    finally:
        signal.signal(signal.SIGINT, before)


# Damaged


def flip(path: Path, where: int) -> None:
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "last byte": lambda path: flip(path, -1),
    "first byte": lambda path: flip(path, 0),
    "length": lambda path: flip(path, 7),
    "header": lambda path: flip(path, 200),
    "checksum": lambda path: flip(path, path.read_bytes().index(b"blake3") + 12),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "nothing": lambda path: os.truncate(path, 0),
    "no header": lambda path: path.write_bytes(b"\x02\0\0\0\0\0\0\0{}"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_anywhere_in_a_checkpoint_is_seen(tmp_path: Path, damage: str):
    for step in (1, 2):
        checkpoint.write(tmp_path, step, "key", {"w": torch.full((50,), float(step))})
    DAMAGE[damage](tmp_path / step_file(2))
    said: list[str] = []
    found = checkpoint.read(tmp_path, "key", said.append)
    assert found is not None
    assert found.step == 1
    assert torch.equal(found.state["w"], torch.ones(50))
    (text,) = said
    assert text == f"{tmp_path / step_file(2)} is damaged and was dropped: going on from step 1"
    DAMAGE[damage](tmp_path / step_file(1))
    with pytest.raises(Corrupt, match=r"-00000001\.\S+: damaged, .*; delete it to train from"):
        checkpoint.read(tmp_path, "key", said.append)


def test_if_the_newest_checkpoint_is_damaged_the_one_before_is_used(
    whole: tuple[dict[str, bytes], list[Event]], tmp_path: Path
):
    stopped_at(tmp_path, LATER)
    flip(checkpoint.folder_of(tmp_path, 0) / step_file(LATER), -1)
    events: list[Event] = []
    run(tmp_path, emit=events.append)
    assert isinstance(events[1], Warned)
    assert f"going on from step {CONFIG.checkpoint_steps * 3}" in events[1].text
    assert bytes_of(tmp_path) == whole[0]


def test_a_trained_bank_whose_file_is_damaged_is_trained_again(
    whole: tuple[dict[str, bytes], list[Event]], tmp_path: Path
):
    stopped_at(tmp_path, N_STEPS)
    (weights,) = tmp_path.glob("*/*/sae.safetensors")
    flip(weights, -1)
    events: list[Event] = []
    run(tmp_path, emit=events.append)
    assert any(isinstance(e, Warned) and "Its bank is trained again" in e.text for e in events)
    assert bytes_of(tmp_path) == whole[0]


def test_a_damaged_note_of_a_trained_bank_is_named(
    whole: tuple[dict[str, bytes], list[Event]], tmp_path: Path
):
    stopped_at(tmp_path, N_STEPS)
    note = tmp_path / checkpoint.FOLDER / "bank-0.json"
    was, becomes = '"trained_tokens": ', '"trained_tokens": 1'
    assert was in note.read_text()
    note.write_text(note.read_text().replace(was, becomes, 1))
    events: list[Event] = []
    run(tmp_path, emit=events.append)
    assert Warned("train", f"{note} is damaged: its Saes are trained again") in events
    assert bytes_of(tmp_path) == whole[0]


@pytest.mark.parametrize("at", [LATER, N_STEPS])
def test_another_recipe_does_not_go_on_from_it(tmp_path: Path, at: int):
    stopped_at(tmp_path, at)
    other = CONFIG.model_copy(update={"checkpoint_steps": 9})
    with pytest.raises(ConfigError, match="was written by another recipe"):
        run(tmp_path, other)


@pytest.mark.parametrize("damaged", [False, True])
def test_it_goes_on_where_other_numbers_of_saes_fit_together(
    whole: tuple[dict[str, bytes], list[Event]], tmp_path: Path, damaged: bool
):
    stopped_at(tmp_path, LATER)
    note = tmp_path / checkpoint.FOLDER / "banks.json"
    specs = [spec for bank in banks() for spec in bank]
    events: list[Event] = []
    if damaged:
        note.write_text("{}")
        with pytest.raises(ConfigError, match="was written by another recipe"):
            train.run(work(tmp_path, events.append)._replace(banks=[specs]))
        assert Warned("train", f"{note} is damaged: the Saes are grouped anew") in events
    else:
        train.run(work(tmp_path)._replace(banks=[specs]))
        assert bytes_of(tmp_path) == whole[0]


# Shared


def begin(out: Path, emit: Any = silent) -> train.Work:
    return train.begin(work(out, emit))


def train_banks(out: Path, share: Share, emit: Any = silent) -> None:
    train.train_banks(begin(out, emit), share)


def test_shares_make_the_suite_of_one_process(
    whole: tuple[dict[str, bytes], list[Event]], tmp_path: Path
):
    begin(tmp_path)
    done: list[int] = []
    for rank in (2, 1, 0):
        events: list[Event] = []
        train_banks(tmp_path, Share(rank, 3), events.append)
        done += [event.done for event in events if isinstance(event, Advanced)][-1:]
        assert not any(isinstance(event, Finished) for event in events)
    assert sum(done) == 2 * CONFIG.tokens, "two banks, and a worker without one"
    assert not (tmp_path / "manifest.json").exists()
    sealing: list[Event] = []
    run(tmp_path, emit=sealing.append)
    assert bytes_of(tmp_path) == whole[0]
    assert not any(isinstance(event, Measured) for event in sealing), "nothing is trained again"
    before = bytes_of(tmp_path)
    train_banks(tmp_path, Share(0, 2))
    assert bytes_of(tmp_path) == before, "a finished suite is left as it is"


def test_a_share_that_was_stopped_goes_on_among_another_number_of_workers(
    whole: tuple[dict[str, bytes], list[Event]], tmp_path: Path
):
    stopping = sending(signal.SIGTERM, LATER)
    with pytest.raises(Interrupted, match=f"after step {LATER} of {N_STEPS} of bank 2 of 2"):
        train.train_banks(begin(tmp_path)._replace(batches_from=stopping), Share(1, 2))
    events: list[Event] = []
    run(tmp_path, emit=events.append)
    assert bytes_of(tmp_path) == whole[0]
    steps = [event.step for event in events if isinstance(event, Measured)]
    assert steps == [20, 40, 50, 40, 50], "the first bank whole, the second from where it was"


def test_a_note_of_saes_of_other_lengths_is_not_followed(tmp_path: Path):
    """Two Saes that were begun as one bank are two banks once one is to be trained longer."""
    one = CONFIG.model_copy(update={"more": ()})
    specs = sweep.specs(one, n_layers=2)
    with pytest.raises(Interrupted):
        stopping = work(tmp_path, config=one, batches=sending(signal.SIGTERM, 1))
        train.run(stopping._replace(banks=[specs]))
    shutil.rmtree(checkpoint.folder_of(tmp_path, 0))  # as if killed before the first checkpoint
    longer = one.model_copy(update={"sites": ("resid_post.0",), "more": (LONGER_TWIN,)})
    run(tmp_path, longer)
    facts = files.read_manifest(tmp_path).facts["saes"]
    assert [fact["trained_tokens"] for fact in facts] == [N_STEPS * 64, 2 * N_STEPS * 64]


# Full


def test_a_full_disk_is_named_and_the_last_checkpoint_is_good(
    whole: tuple[dict[str, bytes], list[Event]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sync, calls = os.fsync, itertools.count()

    def full(descriptor: int) -> None:
        if next(calls) >= 2 * 3:  # file and folder of the note of banks and of two checkpoints
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PanscopeError) as raised:
        run(tmp_path)
    path = checkpoint.folder_of(tmp_path, 0) / step_file(CONFIG.checkpoint_steps * 3)
    assert str(raised.value).startswith(f"{path}: the disk is full (0.0 MB wanted, ")
    assert "make room there; the same command goes on from the last checkpoint" in str(raised.value)
    monkeypatch.undo()
    steps = [CONFIG.checkpoint_steps, 2 * CONFIG.checkpoint_steps]
    assert checkpoints(tmp_path) == [step_file(step) for step in steps]
    run(tmp_path)
    assert bytes_of(tmp_path) == whole[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_the_kernels_own_full_device_is_named(tmp_path: Path):
    path = tmp_path / f".{step_file(1)}.{os.getpid()}.tmp"
    path.symlink_to("/dev/full")
    with pytest.raises(PanscopeError, match=r"the disk is full \(4\.2 MB wanted"):
        checkpoint.write(tmp_path, 1, "key", {"w": torch.zeros(1 << 20)})
    assert not (tmp_path / step_file(1)).exists()


# Poisoned


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_activations_that_are_not_finite_are_named(tmp_path: Path, value: float):
    def poison(batch: dict[Site, Tensor]) -> None:
        batch[SITES[0]][37, 2] = value

    with pytest.raises(PanscopeError) as raised:
        run(tmp_path, batches=acting(LATER, poison))
    kept = 3 * CONFIG.checkpoint_steps
    assert str(raised.value) == (
        f"train, activations of resid_post.0: token 37 of step {LATER}'s batch holds NaN or "
        "infinity; look at that text and at the model's dtype; "
        f"the checkpoint of step {kept} is kept"
    )
    assert checkpoints(tmp_path)[-1] == step_file(kept)


def test_batches_that_only_the_scale_has_seen_are_looked_at_first(tmp_path: Path):
    def poison(batch: dict[Site, Tensor]) -> None:
        batch[SITES[0]][0, 0] = float("nan")

    config = CONFIG.model_copy(update={"checkpoint_steps": 1})
    with pytest.raises(
        PanscopeError, match=r"token 0 of step 3's batch.* no checkpoint was written"
    ):
        run(tmp_path, config, batches=acting(3, poison))


def test_a_guard_that_is_read_later_tells_the_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """As on a GPU, where the host does not wait: the poison is in the weights, and not on disk."""
    monkeypatch.setattr(Guard, "reads_at_once", False, raising=False)
    monkeypatch.setattr(Guard, "__init__", _late(Guard.__init__))
    at = CONFIG.checkpoint_steps * 2 - 3

    def poison(batch: dict[Site, Tensor]) -> None:
        batch[SITES[0]][5, 0] = float("nan")

    def stream(first: int, sites: tuple[Site, ...]) -> Iterator[dict[Site, Tensor]]:
        for step, batch in enumerate(batches_from(first, sites), 1):
            if step in (at, at + 1):
                poison(batch)
            yield batch

    with pytest.raises(PanscopeError, match=f"token 5 of step {at}'s batch holds NaN"):
        run(tmp_path, batches=stream)
    assert checkpoints(tmp_path) == [step_file(CONFIG.checkpoint_steps)]
    kept = load_file(checkpoint.folder_of(tmp_path, 0) / step_file(CONFIG.checkpoint_steps))
    assert all(tensor.isfinite().all() for tensor in kept.values())


def _late(init: Callable[..., None]) -> Callable[..., None]:
    def begun(self: Guard, *args: Any) -> None:
        init(self, *args)
        self.reads_at_once = False

    return begun


def test_large_activations_are_finite():
    guard = Guard(SITES, torch.device("cpu"))
    guard.see_({site: torch.full((3, 4), 3e4, dtype=torch.float16) for site in SITES}, 1)
    guard.check("")


def test_weights_that_are_not_finite_are_named(tmp_path: Path):
    config = CONFIG.model_copy(
        update={"schedule": Schedule(learning_rate=1e30, warmup_steps=0, sparsity_warmup_steps=0)}
    )
    with pytest.raises(PanscopeError) as raised:
        run(tmp_path, config)
    assert "train, resid_post.0/w24_l0_2_s0:" in str(raised.value)
    assert "is not finite after step 8; lower train.schedule.learning_rate" in str(raised.value)
    assert str(raised.value).endswith("no checkpoint was written yet")
    assert not list((tmp_path / checkpoint.FOLDER).rglob("step-*"))


def test_whole_numbers_large_ones_and_nothing_are_finite():
    check_weights({"w": torch.full((2,), 3e38)}, 1, "")
    check_weights({"seen": torch.ones(3, dtype=torch.int32), "none": torch.ones(0)}, 1, "")
    check_weights({}, 1, "")


def test_a_stream_that_ends_too_early_is_named(tmp_path: Path):
    def short(first: int, sites: tuple[Site, ...]) -> Iterator[dict[Site, Tensor]]:
        yield from itertools.islice(batches_from(first, sites), 20)

    with pytest.raises(Incomplete, match="the stream ended after 20 of 50 batches"):
        run(tmp_path, batches=short)


# Checkpoint files


def test_a_checkpoint_holds_every_dtype_and_shape(tmp_path: Path):
    state = {str(dtype): torch.arange(3).to(dtype) for dtype in checkpoint.DTYPES}
    state |= {"scalar": torch.tensor(2.5), "none": torch.zeros(0, 4), "turned": torch.rand(3, 5).T}
    for step in (100, 9, 20):
        checkpoint.write(tmp_path, step, "key", state)
    assert sorted(path.name for path in tmp_path.iterdir()) == [step_file(20), step_file(100)]
    found = checkpoint.read(tmp_path, "key", pytest.fail)
    assert found is not None
    assert found.step == 100
    for read in (found.state, load_file(found.path)):
        assert read.keys() == state.keys()
        for name, tensor in state.items():
            assert read[name].dtype == tensor.dtype
            assert torch.equal(read[name], tensor)
    assert checkpoint.read(tmp_path / "empty", "key", pytest.fail) is None


# Metrics


def test_what_training_says(whole: tuple[dict[str, bytes], list[Event]]):
    _, events = whole
    assert events[0] == Started("train", 2 * N_STEPS * 64, "tokens")
    advanced = [event for event in events if isinstance(event, Advanced)]
    assert [event.done for event in advanced] == [64 * n for n in (20, 40, 50, 70, 90, 100)]
    shown = ["loss", "l0", "fvu", "tokens/s", "step/floor", "waiting"]
    assert all(list(event.metrics) == shown for event in advanced)
    assert all(event.metrics["tokens/s"] > 0 for event in advanced)
    assert all(0 < event.metrics["waiting"] < 1 for event in advanced)
    first, *_, last = [event for event in events if isinstance(event, Measured)]
    assert (first.step, first.tokens, list(first.saes)) == (
        20,
        20 * 64,
        ["resid_post.0/w24_l0_2_s0"],
    )
    assert (last.step, last.tokens, len(last.saes)) == (N_STEPS, N_STEPS * 64, 2)
    assert all(m["fvu"] < first.saes["resid_post.0/w24_l0_2_s0"]["fvu"] for m in last.saes.values())
    for sae, counts in last.densities.items():
        assert len(counts) == len(last.density_edges) - 1
        assert sum(counts) <= (24 if "w24" in sae else 20)


def test_the_floor_is_the_time_of_all_products():
    small, large = pace.Product(64, 32, 128), pace.Product(8192, 256, 16_384)
    assert large.flops == 2 * 8192 * 256 * 16_384
    device = torch.device("cpu")
    one = pace.floor_seconds([small], device)
    assert 0 < one < 0.1
    assert pace.floor_seconds([large, large, small], device) > 100 * one


def test_the_pace_of_the_steps_since_the_last_reading(monkeypatch: pytest.MonkeyPatch):
    clock = itertools.count(100.0)  # a second passes between any two looks
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(clock))
    measured = pace.Pace(floor=0.5, done=10)
    with measured.waiting():
        pass
    assert measured.read(14, 256) == {
        "tokens/s": pytest.approx(4 * 256 / 3),
        "step/floor": pytest.approx((3 - 1) / (4 * 0.5)),
        "waiting": pytest.approx(1 / 3),
    }
    assert measured.read(16, 256)["waiting"] == 0


# Warnings

AIM = Aim("s", 1024, 4e-3, 1000, 100, target_l0=20.0, sparsity=None, takes_k=False)
PRICED = AIM._replace(target_l0=None, sparsity=0.01)


def said(aim: Aim, step: int, n_tokens: int = 20_480, **metrics: float) -> dict[str, str]:
    found = {"l0": 20.0, "silent_share": 0.0} | metrics
    return dict(problems(aim, Reading(step, n_tokens, found)))


@pytest.mark.parametrize("step", [20, 500, 1000])
def test_what_is_well_is_not_spoken_of(step: int):
    assert said(AIM, step) == {}
    assert said(AIM, step, silent_share=0.4, l0=21.9) == {}
    assert said(PRICED, step, l0=200.0) == {}
    assert said(AIM._replace(takes_k=True), step, l0=12.0) == {}


def test_a_sae_without_firing_latents_is_named():
    assert said(AIM, 60, l0=0.0, silent_share=1.0) == {
        "silent": "s: at step 60 of 1,000 no latent fires any more (L0 0); lower its learning rate "
        "(now 0.004) first, then raise its target_l0 (now 20)"
    }
    assert "then its sparsity (now 0.01)" in said(PRICED, 60, l0=0.05)["silent"]


def test_a_collapse_is_named_where_chance_cannot_explain_it():
    assert said(AIM, 60, silent_share=0.98) == {
        "collapse": "s: at step 60 of 1,000 98% of the latents did not fire on the last 20,480 "
        "tokens; lower its learning rate (now 0.004) first, then raise its target_l0 (now 20)"
    }
    assert said(AIM, 60, n_tokens=400, silent_share=0.98) == {}  # 8 firings a latent were wanted
    assert "collapse" in said(AIM, 60, l0=1.0, silent_share=0.98)  # judged by its target


def test_codes_that_stay_dense_are_named_after_the_warm_up():
    assert said(AIM, 100, l0=300.0) == {}
    assert said(AIM, 120, l0=300.0) == {
        "dense": "s: at step 120 of 1,000 a token activates 300 of 1,024 latents, which is not "
        "sparse; raise train.target_strength or train.threshold.rate"
    }
    assert "raise its sparsity (now 0.01)" in said(PRICED, 120, l0=300.0)["dense"]
    assert said(AIM._replace(target_l0=400.0), 120, l0=300.0) == {}
    assert "dense" in said(AIM._replace(warm_steps=2000), 1000, l0=300.0)  # warming to the end


@pytest.mark.parametrize("l0", [17.9, 22.1])
def test_a_missed_target_is_named_at_the_end(l0: float):
    assert said(AIM, 980, l0=l0) == {}
    assert said(AIM, 1000, l0=l0)["target"] == (
        f"s: at step 1,000 of 1,000 L0 is {l0:g}, its target was 20; train on more tokens, or "
        "raise train.target_strength or train.threshold.rate"
    )


def test_each_warning_is_said_once_and_a_collapse_when_it_lasts():
    watch = Watch()

    def new(step: int, sae: str = "s", **metrics: float) -> int:
        found = {"l0": 20.0, "silent_share": 0.0} | metrics
        return len(watch.new(AIM._replace(sae=sae), Reading(step, 20_480, found)))

    assert new(20, silent_share=0.9) == 0
    assert new(40) == 0
    assert new(60, silent_share=0.9) == 0
    assert new(80, sae="t", silent_share=0.9) == 0
    assert new(80, silent_share=0.9) == 1
    assert new(100, silent_share=0.9) == 0
    assert new(100, l0=0.0) == 1
    assert new(120, l0=0.0) == 0
    assert new(1000, sae="u", silent_share=0.9) == 1  # the last: there is no other to wait for


def test_a_price_that_kills_all_latents_is_warned_of(tmp_path: Path):
    changes = {"sites": ("resid_post.0",), "more": (), "target_l0": (), "sparsity": (1e3,)}
    schedule = Schedule(learning_rate=0.1, bias_rate=1, warmup_steps=0, sparsity_warmup_steps=0)
    config = CONFIG.model_copy(update=changes | {"schedule": schedule})
    events: list[Event] = []
    run(tmp_path, config, events.append)
    (warning,) = [event.text for event in events if isinstance(event, Warned)]
    assert "no latent fires any more" in warning
    assert "then its sparsity (now 1000)" in warning
