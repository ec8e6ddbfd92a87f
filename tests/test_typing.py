"""What a type checker knows: mypy and pyright check this file, and the tests run it."""

from __future__ import annotations

from typing import Any, assert_type

import pykka

from pykka_registry import (
    AggregateMixin,
    AggregateRegistry,
    EndReason,
    Registered,
    RegistryRef,
    Terminated,
)


class Account(AggregateMixin, pykka.ThreadingActor):
    def __init__(self, balance: int = 0) -> None:
        super().__init__()
        self.balance = balance


class Savings(Account):
    pass


def test_refs_know_their_class() -> None:
    with AggregateRegistry.start(Account, args=(5,), name="accounts") as accounts:
        assert_type(accounts, RegistryRef[Account])
        assert_type(accounts.get_or_start("a"), pykka.ActorRef[Account])
        assert_type(accounts.start_new("b", timeout=5), pykka.ActorRef[Account])
        assert_type(accounts.get("a"), pykka.ActorRef[Account] | None)
        assert_type(accounts.get("a", 0), pykka.ActorRef[Account] | int)
        assert_type(accounts["a"], pykka.ActorRef[Account])
        assert_type(accounts.values(), list[pykka.ActorRef[Account]])
        assert_type(accounts.items(), list[tuple[Any, pykka.ActorRef[Account]]])
        assert_type("a" in accounts, bool)
        assert_type(Savings.start(accounts, "s", 7), pykka.ActorRef[Savings])
        assert_type(accounts.drain(), list[Any])
        assert_type(accounts.stop(), bool)
        assert_type(accounts.stop(block=False), pykka.Future[bool])
        keys: list[str] = sorted(accounts)
        assert keys == []


def test_a_registry_without_a_class_has_refs_of_any_class() -> None:
    with AggregateRegistry.start() as registry:
        assert_type(registry, RegistryRef[Any])
        ref: pykka.ActorRef[Account] = Account.start(registry, "a")
        assert registry.get("a") is ref


def test_a_registry_is_passed_around_as_a_pykka_ref() -> None:
    def stop(ref: pykka.ActorRef[Any]) -> bool:
        return ref.stop(block=True)

    assert stop(AggregateRegistry.start(Account))


def test_events_know_what_they_carry() -> None:
    def describe(event: Registered | Terminated) -> str:
        match event:
            case Registered(key, incarnation, ref):
                assert_type(ref, pykka.ActorRef[Any])
                return f"{key} {incarnation} {ref.actor_class.__name__}"
            case Terminated(key, incarnation, reason, cause):
                assert_type(incarnation, int)
                assert_type(reason, EndReason)
                assert_type(cause, BaseException | None)
                return f"{key} {incarnation} {reason.value}: {cause}"

    assert describe(Terminated("a", 1, EndReason.FAILED, ValueError("no"))) == "a 1 failed: no"
    ref = Account().actor_ref
    assert describe(Registered("a", 1, ref)) == "a 1 Account"
