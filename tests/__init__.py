"""The tests."""

import os
import sys
from typing import Any


def _let_coverage_fork() -> None:
    """Keep coverage's own lock out of a fork: one that another thread holds then hangs the child.

    What is registered first runs last before a fork, and first after it: before the package's own
    hooks, which are measured.
    """
    coverage: Any = sys.modules.get("coverage")
    running = None if coverage is None else coverage.Coverage.current()
    lock = getattr(getattr(running, "_collector", None), "data_lock", None)
    if lock is not None and "pykka_registry" not in sys.modules:
        os.register_at_fork(
            before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
        )


if hasattr(os, "register_at_fork"):
    _let_coverage_fork()
