from threading import Barrier, Thread

import pytest

from panscope.kept import Kept


def test_the_values_unused_longest_go_first() -> None:
    kept, made = Kept[bytes](10, len), []

    def get(name: str, size: int = 4) -> bytes:
        return kept.get(name, lambda: made.append(name) or bytes(size))

    for name in "abacab":
        assert len(get(name)) == 4
    assert made == ["a", "b", "c", "b"]
    assert ["a" in kept, "b" in kept, "c" in kept, kept.bytes] == [True, True, False, 8]
    get("large", 99)
    assert ["large" in kept, kept.bytes] == [True, 99]
    get("a")
    assert ["large" in kept, kept.bytes] == [False, 4]


def test_what_cannot_be_made_is_not_kept() -> None:
    kept = Kept[bytes](10, len)
    with pytest.raises(OSError, match="gone"):
        kept.get("a", lambda: _fail())
    assert kept.get("a", lambda: b"here") == b"here"


def _fail() -> bytes:
    raise OSError("gone")


def test_threads_that_ask_at_once_make_a_value_once() -> None:
    kept, made, barrier = Kept[bytes](10, len), [], Barrier(8)

    def ask() -> None:
        barrier.wait()
        kept.get("a", lambda: made.append(1) or b"1")

    threads = [Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
