"""Whether an aggregate that a command may create is likely to be a new one.

To look in the store for what is not there takes about as long as to decide and to store a command.
So while aggregates come that are new, as when a file is imported, the next is taken for new, too.
The store finds out if it is not: it takes each version of a stream once.
"""

from __future__ import annotations

__all__ = ["Newcomers"]

_ENOUGH = 20
"""New ones in a row, after which the next is taken for one. A wrong guess has the saves that were
to share its transaction made one by one, which is about as much work as so many right ones save."""


class Newcomers:
    """Counts new ones in a row. A hint, which any actor's thread writes, under no lock."""

    def __init__(self) -> None:
        self._in_a_row = 0

    @property
    def are_likely(self) -> bool:
        """Whether the next is likely to be a new one."""
        return self._in_a_row >= _ENOUGH

    def has_come(self) -> None:
        """Note that one was looked for, and was not there."""
        self._in_a_row += 1

    def was_there(self) -> None:
        """Note that one was there already, or that a guess was wrong."""
        self._in_a_row = 0
