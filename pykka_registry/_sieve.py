"""Which of many is the coldest: SIEVE, a queue with a hand that goes round it.

    oldest ── node ── node ── node ── node ── newest ── (the oldest again)
                       ▲
                      hand ──▶

What comes is put in as the newest, and never changes its place. To choose, the hand goes on from
where it was last left, towards the newest and then from the oldest again; it passes over what was
visited since it last came by, and stops at the first node that was not. So what is never visited
goes when the hand first meets it, and what is visited stays where it is.

A hit has nothing to do here: the mark that says "visited" belongs to whoever owns the node, who can
set it without a lock.

The algorithm: Zhang et al., "SIEVE is Simpler than LRU: an Efficient Turn-Key Eviction Algorithm
for Web Caches", NSDI '24.

Who may touch what: a sieve belongs to a table, and all its fields, and those that it sets in its
nodes, are touched only under that table's lock. What `choose` calls back is the package's own
code, never a user's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Node", "Sieve"]


class Node:
    """The base of what is kept in a sieve. It has no fields that a subclass would have to set.

    Its own three are there only while the node is in a sieve, and belong to the sieve.
    """

    __slots__ = ("_newer", "_older", "_sieve")

    _newer: Node
    _older: Node
    _sieve: Sieve[Any]


N = TypeVar("N", bound=Node)


class Sieve(Generic[N]):
    """A queue of nodes, from the oldest to the newest, and the hand."""

    __slots__ = ("_end", "_hand", "_length")

    def __init__(self) -> None:
        self._end = Node()
        """Closes the ring: it comes after the newest and before the oldest, and is none of them."""
        self._end._newer = self._end._older = self._end
        self._hand = self._end
        """Where `choose` looks next; at the end of the ring it is about to go to the oldest."""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __contains__(self, node: object) -> bool:
        return getattr(node, "_sieve", None) is self

    def insert(self, node: N) -> None:
        """Put the node in as the newest; it must not be in any sieve."""
        assert not hasattr(node, "_sieve"), "a node is in one sieve at a time, and once"
        end, newest = self._end, self._end._older
        node._older, node._newer = newest, end
        newest._newer = end._older = node
        node._sieve = self
        self._length += 1

    def remove(self, node: N) -> None:
        """Take the node out, wherever it is; one that is not in is left as it is."""
        if node not in self:
            return
        older, newer = node._older, node._newer
        older._newer, newer._older = newer, older
        if self._hand is node:
            self._hand = newer
        del node._older, node._newer, node._sieve
        self._length -= 1

    def choose(self, pardon: Callable[[N], bool]) -> N | None:
        """Return the coldest node, and leave it in; the hand has gone on to the next.

        Args:
            pardon: Tells whether to spare a node, because it was visited since the last call for
                it, or is busy. It clears the mark that it was visited, and neither inserts nor
                removes. It is called at most twice for each node.

        Returns:
            The first node that was not spared, or `None` if two rounds have found none: one round
            is not enough when all were visited.

        """
        for _ in range(2 * self._length):
            if self._hand is self._end:
                self._hand = self._end._newer
            node = cast("N", self._hand)
            self._hand = node._newer
            if not pardon(node):
                return node
        return None
