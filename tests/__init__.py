"""The tests, and what lets them fork while coverage is measured."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any


def _fork_without_the_lock_of_coverage() -> None:
    """Have who forks hold it: a child may else find it held by a thread that it does not have.

    The package does something at a fork itself, which is measured: so who holds it may take it once
    more.
    """
    if "coverage" in sys.modules:
        import coverage  # noqa: PLC0415  # if it runs

        collector: Any = getattr(coverage.Coverage.current(), "_collector", None)
        if getattr(collector, "data_lock", None) is not None:
            collector.data_lock = lock = threading.RLock()
            for tracer in collector.tracers:  # those that run: of later ones it sees to itself
                tracer.lock_data, tracer.unlock_data = lock.acquire, lock.release
            os.register_at_fork(
                before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
            )


_fork_without_the_lock_of_coverage()
