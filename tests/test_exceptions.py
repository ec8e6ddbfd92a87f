"""The errors: they say what to do, and survive being copied and sent to another process."""

from __future__ import annotations

import copy
import pickle

import pykka
import pytest

from pykka_registry import (
    KeyAlreadyRegistered,
    Overloaded,
    Quarantined,
    RegistryError,
    RegistryStopped,
    Undeliverable,
    WaitCycle,
)
from pykka_registry._exceptions import HeldByForeignActor, NoAnswer, OverloadedTimeout

ERRORS: list[Exception] = [
    RegistryError("anything"),
    KeyAlreadyRegistered("a", None),
    HeldByForeignActor("a", None),
    Overloaded("a", "there is no place"),
    OverloadedTimeout("a", "there is no place"),
    NoAnswer("a", 0.5, "; it has begun"),
    Quarantined("a", "it failed too often"),
    Quarantined("a", "it still runs", is_abandoned=True),
    RegistryStopped("it has stopped"),
    WaitCycle(("a", "b")),
    Undeliverable("a", "ended"),
]


def subclasses(cls: type[Exception]) -> set[type[Exception]]:
    return {cls}.union(*(subclasses(sub) for sub in cls.__subclasses__()))


def test_all_errors_are_here() -> None:
    assert subclasses(RegistryError) | {NoAnswer} == {type(error) for error in ERRORS}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_can_be_copied_and_pickled(error: Exception) -> None:
    for other in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301
        assert type(other) is type(error)
        assert other.args == error.args
        assert vars(other) == vars(error)
        assert str(other) == str(error)
        assert other is not error


def test_the_error_with_an_owner_keeps_it_in_a_copy() -> None:
    """It cannot be pickled then, as no ref of Pykka's can."""
    ref = pykka.ThreadingActor.start()
    assert copy.copy(KeyAlreadyRegistered("a", ref)).ref is ref
    ref.stop()


def test_a_cycle_reads_as_a_sentence() -> None:
    end = " would never end: the one that waits is waited for in turn; do not wait: "
    for keys, text in (
        ((), "waiting for this"),
        (("a",), "waiting for 'a'"),
        (("a", "b"), "waiting for 'a', which waits for 'b',"),
        (("a", "b", 3), "waiting for 'a', which waits for 'b', which waits for 3,"),
    ):
        assert str(WaitCycle(keys)).startswith(text + end)


def test_a_key_that_cannot_be_shown_is_no_trouble() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise ValueError("no")

    for error in (
        HeldByForeignActor(Shy(), None),
        NoAnswer(Shy(), 1, ""),
        Quarantined(Shy(), "why"),
        WaitCycle((Shy(), Shy())),
    ):
        assert "<Shy without a repr>" in str(error)


def test_the_cause_is_in_the_text() -> None:
    error = NoAnswer("a", 1, "; it rests after a failure")
    error.__cause__ = ValueError("no")
    assert str(error) == (
        "aggregate 'a' did not answer within 1 seconds; it rests after a failure; "
        "the cause: ValueError('no')"
    )
