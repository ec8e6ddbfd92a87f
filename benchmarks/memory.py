"""What the kernel says that a process holds in memory (Linux)."""

from __future__ import annotations

import gc
from pathlib import Path

__all__ = ["peak", "resident"]

_STATUS = Path("/proc/self/status")


def resident() -> int:
    """Return this process's resident memory in bytes, when all garbage has been collected."""
    gc.collect()
    return _read("VmRSS")


def peak() -> int:
    """Return the most bytes of memory that this process has had resident so far."""
    return _read("VmHWM")


def _read(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) * 1024
    msg = f"{_STATUS} has no {field}"
    raise RuntimeError(msg)
