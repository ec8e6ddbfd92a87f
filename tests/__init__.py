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
        if collector is not None:
            collector.data_lock = threading.RLock()
            os.register_at_fork(
                before=collector.lock_data,
                after_in_parent=collector.unlock_data,
                after_in_child=collector.unlock_data,
            )


_fork_without_the_lock_of_coverage()
