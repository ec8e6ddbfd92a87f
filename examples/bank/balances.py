"""Write balances to a CSV file, all of it or nothing."""

from __future__ import annotations

import csv
import os
import stat
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

from examples.bank.money import plain
from examples.bank.problems import Failed, Unusable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

HEADER = ("account_id", "balance")


def check_balances_path(path: str) -> None:
    """Check that balances can be written there, before there are any.

    Raises:
        Unusable: if they cannot.
    """
    try:
        _check(path)
    except OSError as error:
        msg = f"{path}: the balances cannot be written there: {error.strerror or error}"
        raise Unusable(msg) from error


def _check(path: str) -> None:
    target = _target(path)
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = 0
    if _is_stream(path):
        return
    if _is_standard_output(target):
        msg = f"{path}: is where the program's own output goes; choose another file"
    elif stat.S_ISDIR(mode):
        msg = f"{path}: is a folder; give the path of the balances file"
    elif not target.parent.is_dir():
        msg = f"{path}: there is no folder {target.parent}; make it first"
    elif not os.access(target.parent, os.W_OK | os.X_OK):
        msg = f"{path}: no file can be made in the folder {target.parent}; choose another"
    elif mode and not os.access(target, os.W_OK):
        msg = f"{path}: the file is read-only; choose another"
    else:
        return
    raise Unusable(msg)


def write_balances(path: str, balances: Mapping[str, Decimal]) -> None:
    """Write one row per account, sorted: a reader finds the old file or the whole new one.

    Raises:
        Failed: if it cannot be written; the old file is still there.
    """
    target = _target(path)
    try:
        if _is_stream(path):
            with Path(path).open("w", encoding="utf-8", newline="") as file:
                _write(file, balances)
            return
        draft = target.with_name(f".balances.{os.getpid()}.tmp")
        try:
            with draft.open("w", encoding="utf-8", newline="") as file:
                _write(file, balances)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        msg = f"{path}: the balances cannot be written: {error.strerror or error}; run it again"
        raise Failed(msg) from error


def _target(path: str) -> Path:
    # Not `Path.resolve`: in Python 3.11 a circle of links is a `RuntimeError` to it.
    return Path(os.path.realpath(path))


def _is_stream(path: str) -> bool:
    """Tell a pipe or a terminal: there is nothing to replace, and the next one would miss it."""
    given = Path(path)
    return given.exists() and not given.is_file() and not given.is_dir()


def _is_standard_output(target: Path) -> bool:
    """Tell if the shell has sent the output there, or if it is `/dev/stdout` in other words."""
    try:
        return os.path.samestat(target.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):
        return False  # a file that is not there yet, or a stand-in for standard output


def sort_key(account_id: str) -> tuple[bool, int, str]:
    """Sort ids that are numbers by their value, and all others behind them as text."""
    is_number = account_id.isascii() and account_id.isdigit()
    return (not is_number, int(account_id) if is_number else 0, account_id)


def _write(file: IO[str], balances: Mapping[str, Decimal]) -> None:
    writer = csv.writer(file)
    writer.writerow(HEADER)
    for account_id in sorted(balances, key=sort_key):
        writer.writerow((account_id, plain(balances[account_id])))
