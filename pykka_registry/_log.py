"""The one logger, and a way to log that never fails: what is logged has already been done."""

from __future__ import annotations

import contextlib
import logging

__all__ = ["log", "name"]

_logger = logging.getLogger("pykka_registry")


def log(level: int, message: str, *args: object, error: BaseException | None = None) -> None:
    """Log, come what may: a handler or a key's `__repr__` that raises must end no actor."""
    with contextlib.suppress(Exception):
        _logger.log(level, message, *args, exc_info=error)


def name(key: object) -> str:
    """Return `repr(key)`, or what can be said of a key whose `__repr__` raises."""
    try:
        return repr(key)
    except Exception:  # noqa: BLE001  # user code
        return f"<{type(key).__name__} without a repr>"
