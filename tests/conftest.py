"""Every test leaves nothing behind, no actor and no thread; a run that failed ends all the same."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
from typing import TYPE_CHECKING

import pykka
import pytest

from pykka_registry import AggregateRegistry
from tests.support import ON_POOL, PATIENCE, Counting, Listener, threads_but_the_pools

if TYPE_CHECKING:
    from collections.abc import Generator

    from pykka_registry import RegistryRef


_failed: list[int] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about the thread of an aggregate where aggregates have none."""
    if ON_POOL:
        about_threads = [item for item in items if item.get_closest_marker("threads")]
        config.hook.pytest_deselected(items=about_threads)
        items[:] = [item for item in items if item not in about_threads]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """End a teardown that hangs: after a failure pytest's own timeout is off."""
    seconds = float(item.config.getini("faulthandler_timeout"))
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_sessionfinish(exitstatus: int) -> None:
    _failed.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """End the process even if a failed test has left a thread that never ends."""
    if any(_failed):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_failed[-1])


@pytest.fixture(autouse=True)
def nothing_is_left() -> Generator[None]:
    before = threads_but_the_pools()
    yield
    actors = pykka.ActorRegistry.get_all()
    pykka.ActorRegistry.stop_all()
    for thread in threads_but_the_pools() - before:
        while thread in threading.enumerate():
            with contextlib.suppress(RuntimeError):  # it is just being started
                thread.join(PATIENCE)
                assert not thread.is_alive(), f"{thread} is left"
    assert actors == []


@pytest.fixture
def counters() -> Generator[RegistryRef[Counting]]:
    """A registry of `Counting` aggregates that may fail as often as they like."""
    with AggregateRegistry.start(Counting, backoff=(0, 0), max_failures=1_000_000) as registry:
        yield registry


@pytest.fixture
def listener() -> Generator[pykka.ActorRef[Listener]]:
    ref = Listener.start()
    yield ref
    ref.stop()
