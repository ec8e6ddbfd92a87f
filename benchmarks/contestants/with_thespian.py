"""Thespian with its `simpleSystemBase`: an actor is found by its global name.

This system runs everything in the calling thread, when that asks or tells. So it has no callers at
once, no asks that are collected later, and nobody else to block. A stop walks all global names.
"""

from __future__ import annotations

import importlib
import itertools
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.contestants import IT, Amounts, in_turn, key_of
from benchmarks.memory import resident

if TYPE_CHECKING:
    from benchmarks.contestants import Rounds

# By name: it has no types.
thespian: Any = importlib.import_module("thespian.actors")


class Ask(NamedTuple):
    """A message that wants an answer."""

    amount: int


class Account(thespian.Actor):  # type: ignore[misc]  # its base has no types
    """An actor."""

    def __init__(self) -> None:
        self.balance = 0

    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802  # Thespian's name
        """Add an amount; send the sum to who asks for it."""
        if isinstance(message, Ask):
            self.balance += message.amount
            self.send(sender, self.balance)
        elif isinstance(message, int):  # Thespian sends messages of its own, too
            self.balance += message


def key_call(amounts: Amounts) -> Rounds:
    """Ask an actor by its name."""
    system = _system()
    names = in_turn(map(key_of, range(amounts.idle)), amounts.calls)
    while True:
        start = time.perf_counter()
        for name in names:
            system.ask(system.createActor(Account, globalName=name), Ask(1))
        yield {IT: (time.perf_counter() - start) / len(names)}


def idle_ask(amounts: Amounts) -> Rounds:
    """Ask an actor with its address at hand."""
    system = _system()
    addresses: list[Any] = [
        system.createActor(Account, globalName=key_of(number)) for number in range(amounts.idle)
    ]
    addresses = in_turn(addresses, amounts.calls)
    while True:
        start = time.perf_counter()
        for address in addresses:
            system.ask(address, Ask(1))
        yield {IT: (time.perf_counter() - start) / len(addresses)}


def tells(amounts: Amounts) -> Rounds:
    """Tell many times; each is handled when `tell` returns."""
    system = _system()
    address = system.createActor(Account, globalName=key_of(0))
    while True:
        start = time.perf_counter()
        for _ in range(amounts.tells):
            system.tell(address, 1)
        yield {IT: (time.perf_counter() - start) / amounts.tells}


def lives(amounts: Amounts) -> Rounds:
    """Start actors and stop them again, beside others that are live."""
    system = _system()
    for number in range(amounts.live):
        system.createActor(Account, globalName=key_of(number))
    numbers = itertools.count(amounts.live)
    while True:
        names = [key_of(number) for number in itertools.islice(numbers, amounts.started)]
        start = time.perf_counter()
        addresses = [system.createActor(Account, globalName=name) for name in names]
        middle = time.perf_counter()
        for address in addresses:
            system.tell(address, thespian.ActorExitRequest())
        end = time.perf_counter()
        yield {"start": (middle - start) / len(names), "stop": (end - middle) / len(names)}


def memory(amounts: Amounts) -> Rounds:
    """Start many actors and ask each once; yield the bytes that each of them holds."""
    system = _system()
    for number in range(-100, 0):
        system.ask(system.createActor(Account, globalName=key_of(number)), Ask(1))
    before = resident()
    for number in range(amounts.remembered):
        system.ask(system.createActor(Account, globalName=key_of(number)), Ask(1))
    yield {IT: (resident() - before) / amounts.remembered}


def _system() -> Any:
    return thespian.ActorSystem("simpleSystemBase", logDefs=False)
