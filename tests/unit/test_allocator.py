"""What Python does with memory that stays: it looks for no garbage in what a server is made of."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from panscope.allocator import free_frozen, nothing_collected


class Node:
    """May hold itself."""

    itself: "Node"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_was_made_within_is_never_looked_through_again() -> None:
    with nothing_collected():
        assert not gc.isenabled()
        made = [[n] for n in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() > 1000
    assert not any(one is made for one in gc.get_objects())


def test_garbage_is_looked_for_again_behind_a_failure() -> None:
    with pytest.raises(ZeroDivisionError), nothing_collected():
        _ = 1 / 0
    assert gc.isenabled()


def test_what_has_become_garbage_is_freed_when_asked() -> None:
    with nothing_collected():
        node = Node()
        node.itself = node
    gone = weakref.ref(node)
    del node
    gc.collect()
    assert gone() is not None, "it is frozen"
    free_frozen()
    assert gone() is None
