"""Every test leaves nothing behind: no actor, no thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pykka
import pytest

from pykka_registry import AggregateRegistry
from tests.support import PATIENCE, Counting, Listener

if TYPE_CHECKING:
    from collections.abc import Generator

    from pykka_registry import RegistryRef


@pytest.fixture(autouse=True)
def nothing_is_left() -> Generator[None]:
    before = set(threading.enumerate())
    yield
    actors = pykka.ActorRegistry.get_all()
    pykka.ActorRegistry.stop_all()
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"{thread} is left"
    assert actors == []


@pytest.fixture
def counters() -> Generator[RegistryRef[Counting]]:
    """A registry of `Counting` aggregates."""
    with AggregateRegistry.start(Counting) as registry:
        yield registry


@pytest.fixture
def listener() -> Generator[pykka.ActorRef[Listener]]:
    ref = Listener.start()
    yield ref
    ref.stop()
