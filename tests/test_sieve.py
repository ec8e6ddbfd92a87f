"""The sieve against a list and an index, and the corners of its ring one by one."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pykka_registry._sieve import Node, Sieve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(slots=True, eq=False)
class Kept(Node):
    """What an owner makes of a node: a dataclass with fields, defaults and no `__dict__`."""

    name: str
    visited: bool = False
    busy: bool = False


class Pardon:
    """Spares what was visited or is busy, as an owner would, and notes for whom it was called."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, node: Kept) -> bool:
        self.asked.append(node.name)
        visited, node.visited = node.visited, False
        return visited or node.busy


def sieve_of(names: str) -> tuple[Sieve[Kept], dict[str, Kept]]:
    """Return a sieve of one node per letter, the first being the oldest, and the nodes."""
    sieve: Sieve[Kept] = Sieve()
    nodes = {name: Kept(name) for name in names}
    for node in nodes.values():
        sieve.insert(node)
    return sieve, nodes


def visit(nodes: dict[str, Kept], names: Iterable[str]) -> None:
    for name in names:
        nodes[name].visited = True


def evict(sieve: Sieve[Kept], pardon: Callable[[Kept], bool] | None = None) -> str | None:
    """Choose a node and take it out; return its name."""
    node = sieve.choose(pardon or Pardon())
    if node is None:
        return None
    sieve.remove(node)
    return node.name


def test_an_empty_sieve_chooses_nobody_and_asks_for_nobody() -> None:
    sieve: Sieve[Kept] = Sieve()
    pardon = Pardon()
    assert sieve.choose(pardon) is None
    assert pardon.asked == []
    assert len(sieve) == 0


def test_what_was_never_visited_goes_in_the_order_in_which_it_came() -> None:
    sieve, _ = sieve_of("abcd")
    assert [evict(sieve) for _ in range(5)] == ["a", "b", "c", "d", None]
    assert len(sieve) == 0


def test_the_example_that_the_authors_draw_goes_as_they_draw_it() -> None:
    """Room for seven; A, B and G were visited; now H, A, D, I, B and J are asked for.

    https://cachemon.github.io/SIEVE-website/
    """
    sieve, nodes = sieve_of("ABCDEFG")
    visit(nodes, "ABG")
    gone: list[str | None] = []
    for name in "HADIBJ":
        if name in nodes and nodes[name] in sieve:
            visit(nodes, name)
        else:
            gone.append(evict(sieve))
            nodes[name] = Kept(name)
            sieve.insert(nodes[name])
    assert gone == ["C", "E", "F"]
    assert [name for name, node in nodes.items() if node in sieve] == list("ABDGHIJ")
    assert [name for name, node in nodes.items() if node.visited] == list("ABG")


def test_what_is_spared_keeps_its_place() -> None:
    """Moved to the newest, as in CLOCK, `a` would go after `d`."""
    sieve, nodes = sieve_of("abc")
    visit(nodes, "a")
    assert evict(sieve) == "b"
    sieve.insert(Kept("d"))
    assert [evict(sieve) for _ in range(3)] == ["c", "d", "a"]


def test_the_hand_goes_on_from_where_it_was_left() -> None:
    """Begun with the oldest each time, `a`, which is no longer visited, would go second."""
    sieve, nodes = sieve_of("abcd")
    visit(nodes, "a")
    assert evict(sieve) == "b"
    assert not nodes["a"].visited
    assert evict(sieve) == "c"


def test_the_hand_meets_what_came_while_it_was_under_way() -> None:
    sieve, nodes = sieve_of("ab")
    assert evict(sieve) == "a"
    sieve.insert(Kept("c"))
    visit(nodes, "b")
    assert evict(sieve) == "c"


def test_past_the_newest_the_hand_begins_with_the_oldest_though_a_newer_one_came() -> None:
    sieve, nodes = sieve_of("abc")
    visit(nodes, "ab")
    assert evict(sieve) == "c"
    sieve.insert(Kept("d"))
    assert evict(sieve) == "a"


def test_the_mark_is_cleared_so_a_visit_spares_once() -> None:
    sieve, nodes = sieve_of("ab")
    visit(nodes, "ab")
    pardon = Pardon()
    assert sieve.choose(pardon) is nodes["a"]
    assert pardon.asked == ["a", "b", "a"]


def test_who_is_chosen_stays_in_until_it_is_removed() -> None:
    sieve, nodes = sieve_of("ab")
    assert sieve.choose(Pardon()) is nodes["a"]
    assert nodes["a"] in sieve
    assert len(sieve) == 2
    assert sieve.choose(Pardon()) is nodes["b"]
    assert sieve.choose(Pardon()) is nodes["a"]


def test_a_sieve_of_one_chooses_it_again_and_again() -> None:
    sieve, nodes = sieve_of("a")
    for _ in range(3):
        assert sieve.choose(Pardon()) is nodes["a"]
    visit(nodes, "a")
    pardon = Pardon()
    assert sieve.choose(pardon) is nodes["a"]
    assert pardon.asked == ["a", "a"]


def test_when_all_are_busy_two_rounds_end_the_search_and_the_hand_is_back() -> None:
    sieve, nodes = sieve_of("abc")
    assert sieve.choose(Pardon()) is nodes["a"]
    for node in nodes.values():
        node.busy = True
    pardon = Pardon()
    assert sieve.choose(pardon) is None
    assert pardon.asked == list("bcabca")
    nodes["b"].busy = False
    assert sieve.choose(Pardon()) is nodes["b"]


@pytest.mark.parametrize("length", range(1, 8))
@pytest.mark.parametrize("hand", range(8))
def test_pardon_is_called_at_most_twice_for_each_and_no_less_would_do(
    length: int, hand: int
) -> None:
    sieve, nodes = sieve_of("abcdefgh"[:length])
    for _ in range(hand):
        sieve.choose(Pardon())
    pardon = Pardon()
    assert sieve.choose(lambda node: pardon(node) or True) is None
    assert sorted(pardon.asked) == sorted(2 * list(nodes))
    last = pardon.asked[-1]
    left = 2 * length

    def all_but_the_last(_node: Kept) -> bool:
        nonlocal left
        left -= 1
        return left > 0

    assert sieve.choose(all_but_the_last) is nodes[last]


@pytest.mark.parametrize("removed", "abc")
def test_the_hand_moves_on_when_what_it_points_at_is_removed(removed: str) -> None:
    sieve, nodes = sieve_of("abc")
    for name in "abc":
        if name == removed:
            break
        assert sieve.choose(Pardon()) is nodes[name]
    sieve.remove(nodes[removed])
    following = {"a": "bc", "b": "ca", "c": "ab"}[removed]
    assert [evict(sieve) for _ in range(2)] == list(following)


def test_the_hand_stays_when_something_else_is_removed() -> None:
    sieve, nodes = sieve_of("abcd")
    assert sieve.choose(Pardon()) is nodes["a"]
    sieve.remove(nodes["a"])
    sieve.remove(nodes["c"])
    assert [evict(sieve) for _ in range(2)] == ["b", "d"]


def test_a_sieve_that_was_emptied_under_the_hand_begins_anew() -> None:
    sieve, nodes = sieve_of("ab")
    assert sieve.choose(Pardon()) is nodes["a"]
    sieve.remove(nodes["b"])
    sieve.remove(nodes["a"])
    assert sieve.choose(Pardon()) is None
    for name in "ab":
        sieve.insert(nodes[name])
    assert [evict(sieve) for _ in range(3)] == ["a", "b", None]


def test_removing_what_is_not_in_changes_nothing() -> None:
    sieve, nodes = sieve_of("ab")
    other, others = sieve_of("cd")
    sieve.remove(Kept("never in"))
    sieve.remove(others["c"])
    sieve.remove(nodes["a"])
    sieve.remove(nodes["a"])
    assert len(sieve) == 1
    assert len(other) == 2
    assert [evict(other) for _ in range(2)] == ["c", "d"]
    assert evict(sieve) == "b"


def test_a_node_is_in_at_most_once_and_in_one_sieve_only() -> None:
    sieve, nodes = sieve_of("ab")
    other: Sieve[Kept] = Sieve()
    for one in (sieve, other):
        with pytest.raises(AssertionError, match="one sieve at a time"):
            one.insert(nodes["a"])
    assert nodes["a"] in sieve
    assert nodes["a"] not in other
    assert len(sieve) == 2
    assert len(other) == 0
    sieve.remove(nodes["a"])
    other.insert(nodes["a"])
    assert nodes["a"] not in sieve
    assert nodes["a"] in other


def test_only_what_is_in_is_in() -> None:
    sieve, nodes = sieve_of("a")
    assert nodes["a"] in sieve
    assert Kept("a") not in sieve
    assert "a" not in sieve
    assert sieve._end not in sieve


def test_what_was_inserted_again_is_the_newest() -> None:
    sieve, nodes = sieve_of("abc")
    sieve.remove(nodes["a"])
    sieve.insert(nodes["a"])
    assert [evict(sieve) for _ in range(3)] == ["b", "c", "a"]


def test_a_sieve_is_made_anew_of_nodes_that_are_half_in_another() -> None:
    sieve, nodes = sieve_of("abc")
    del (
        nodes["a"]._older,
        nodes["b"]._sieve,
        nodes["c"]._newer,
        nodes["c"]._older,
        nodes["c"]._sieve,
    )
    again: Sieve[Kept] = Sieve()
    again.refill(nodes[name] for name in "cab")
    assert len(again) == 3
    assert [evict(again) for _ in range(4)] == ["c", "a", "b", None]
    assert nodes["a"] not in sieve


def test_what_was_removed_holds_nothing() -> None:
    """A row that somebody keeps must not keep its former neighbours, nor the table."""
    sieve, nodes = sieve_of("abc")
    kept = nodes["b"]
    sieve.remove(kept)
    assert not [other for other in gc.get_referents(kept) if isinstance(other, Node | Sieve)]


def test_a_node_has_no_dict_and_compares_by_identity() -> None:
    node = Kept("a")
    assert not hasattr(node, "__dict__")
    assert node != Kept("a")


class SieveMachine(RuleBasedStateMachine):
    """The model: a list from the oldest to the newest, and the index at which the hand looks next.

    It has marks of its own, so that those that are cleared are compared, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sieve: Sieve[Kept] = Sieve()
        self.queue: list[Kept] = []
        self.hand = 0
        self.visited: set[Kept] = set()
        self.out: list[Kept] = []

    def _remove_from_model(self, node: Kept) -> None:
        at = self.queue.index(node)
        del self.queue[at]
        if at < self.hand:
            self.hand -= 1
        if self.hand == len(self.queue):
            self.hand = 0
        self.out.append(node)

    def _choose_from_model(self) -> Kept | None:
        for _ in range(2 * len(self.queue)):
            node = self.queue[self.hand]
            self.hand = (self.hand + 1) % len(self.queue)
            if node in self.visited or node.busy:
                self.visited.discard(node)
            else:
                return node
        return None

    def _choose(self) -> Kept | None:
        pardon = Pardon()
        chosen = self.sieve.choose(pardon)
        assert len(pardon.asked) <= 2 * len(self.queue)
        assert chosen is self._choose_from_model()
        assert chosen is None or chosen in self.sieve
        return chosen

    @rule(again=st.booleans())
    def insert(self, *, again: bool) -> None:
        node = self.out.pop() if again and self.out else Kept("node")
        self.sieve.insert(node)
        self.queue.append(node)

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def visit(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.queue))
        node.visited = True
        self.visited.add(node)

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def turn_busy_or_idle(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.queue))
        node.busy = not node.busy

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.queue))
        self.sieve.remove(node)
        self._remove_from_model(node)

    @precondition(lambda self: self.queue)
    @rule()
    def remove_what_the_hand_points_at(self) -> None:
        node = self.queue[self.hand]
        self.sieve.remove(node)
        self._remove_from_model(node)

    @precondition(lambda self: self.out)
    @rule()
    def remove_what_is_out(self) -> None:
        self.sieve.remove(self.out[-1])

    @rule()
    def choose_and_keep(self) -> None:
        self._choose()

    @rule()
    def choose_and_remove(self) -> None:
        node = self._choose()
        if node is not None:
            self.sieve.remove(node)
            self._remove_from_model(node)

    @invariant()
    def both_agree(self) -> None:
        assert len(self.sieve) == len(self.queue)
        assert all(node in self.sieve for node in self.queue)
        assert not any(node in self.sieve for node in self.out)
        assert {node for node in self.queue if node.visited} == self.visited & set(self.queue)

    @invariant()
    def the_ring_is_the_queue_in_both_directions(self) -> None:
        end = self.sieve._end
        ring = [end, *self.queue, end]
        for older, newer in pairwise(ring):
            assert older._newer is newer
            assert newer._older is older


TestSieveMachine = SieveMachine.TestCase
TestSieveMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


class ByTheBook:
    """Algorithm 1 of Zhang et al., line by line, on a list whose first is the head."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.queue: list[int] = []
        self.visited: dict[int, bool] = {}
        self.hand: int | None = None

    def request(self, key: int) -> int | None:
        """Return what was evicted."""
        evicted = None
        if key in self.visited:
            self.visited[key] = True
            return None
        if len(self.queue) == self.capacity:
            evicted = self.queue[-1] if self.hand is None else self.hand
            while self.visited[evicted]:
                self.visited[evicted] = False
                evicted = self._before(evicted)
                if evicted is None:
                    evicted = self.queue[-1]
            self.hand = self._before(evicted)
            self.queue.remove(evicted)
            del self.visited[evicted]
        self.queue.insert(0, key)
        self.visited[key] = False
        return evicted

    def _before(self, key: int) -> int | None:
        at = self.queue.index(key)
        return self.queue[at - 1] if at else None


@settings(deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(0, 9), max_size=100))
def test_a_cache_made_of_it_evicts_what_the_algorithm_of_the_paper_evicts(
    capacity: int, requests: list[int]
) -> None:
    book = ByTheBook(capacity)
    sieve: Sieve[Kept] = Sieve()
    cache: dict[str, Kept] = {}
    for key in map(str, requests):
        evicted = None
        if key in cache:
            cache[key].visited = True
        else:
            if len(cache) == capacity:
                evicted = evict(sieve)
                assert evicted is not None
                del cache[evicted]
            cache[key] = Kept(key)
            sieve.insert(cache[key])
        expected = book.request(int(key))
        assert evicted == (None if expected is None else str(expected))
