"""What a registry is in a forked child: refused, with the reason.

Only the forking thread exists in the child (https://docs.python.org/3/library/os.html#os.fork), so
no lock that another thread held is ever released there, and no actor answers.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

from pykka_registry import _waits
from pykka_registry._exceptions import RegistryStopped

if TYPE_CHECKING:
    from collections.abc import Hashable

    from pykka_registry._entry import Ref
    from pykka_registry._table import Table

__all__ = ["FORKED", "Forked", "tables"]

FORKED = (
    "this process was forked from the one in which the registry runs, and has none of its threads; "
    "fork before the registry is started, or use the 'spawn' start method"
)


class Forked(dict["Hashable", "Ref"]):
    """Takes the place of `active` in a forked child, where every look-up says why it fails."""

    def _refuse(self, *_args: object) -> Any:
        raise RegistryStopped(FORKED)

    get = copy = __len__ = __contains__ = __iter__ = __getitem__ = _refuse


tables: weakref.WeakSet[Table] = weakref.WeakSet()
"""All there are. Only added to."""


def _after_fork_in_child() -> None:
    _waits.forget_after_fork()
    for table in tables:
        table.forked()


if hasattr(os, "register_at_fork"):  # pragma: no branch  # there is no fork on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
