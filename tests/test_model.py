"""The registry against a small model: whatever sequence of calls, both agree."""

from __future__ import annotations

import functools
from typing import Any

import pykka
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from pykka_registry import (
    AggregateMixin,
    AggregateRegistry,
    EndReason,
    KeyAlreadyRegistered,
    Registered,
    RegistryStopped,
    Terminated,
)
from tests.support import PATIENCE, Listener, told_count

KEYS = st.sampled_from(["a", "b", 1, ("c", 2)])


class Modeled(AggregateMixin, pykka.ThreadingActor):
    """Fails to start when the test says so, and counts what it was sent."""

    fails_to_start = False

    def on_start(self) -> None:
        self.received = 0
        if type(self).fails_to_start:
            raise ValueError("no start")

    def on_receive(self, message: Any) -> Any:
        if message == "fail":
            raise ValueError("no")
        self.received += 1
        return self.received


class Foreign(pykka.ThreadingActor):
    pass


class RegistryMachine(RuleBasedStateMachine):
    """The model: which ref each key has, how often it was asked, and which events came."""

    refs = Bundle("refs")

    def __init__(self) -> None:
        super().__init__()
        Modeled.fails_to_start = False
        self.registry = AggregateRegistry.start(Modeled)
        self.listener = Listener.start()
        self.registry.subscribe(self.listener)
        self.live: dict[Any, tuple[pykka.ActorRef[Any], int]] = {}
        self.asked: dict[Any, int] = {}
        self.events: list[Registered | Terminated] = []
        self.number = 0
        self.stopped = False

    def _started(self, key: Any, ref: pykka.ActorRef[Any]) -> pykka.ActorRef[Any]:
        self.number += 1
        self.live[key] = (ref, self.number)
        self.asked[key] = 0
        self.events.append(Registered(key, self.number, ref))
        return ref

    def _ended(self, key: Any, reason: EndReason) -> None:
        _, number = self.live.pop(key)
        self.events.append(Terminated(key, number, reason))

    def _key_of(self, ref: pykka.ActorRef[Any]) -> Any:
        return next((key for key, (live, _) in self.live.items() if live is ref), None)

    def _start(self, call: Any, key: Any) -> Any:
        if self.stopped:
            with pytest.raises(RegistryStopped):
                call(key)
        elif key in self.live:
            with pytest.raises(KeyAlreadyRegistered) as raised:
                call(key)
            assert raised.value.ref is self.live[key][0]
        else:
            return self._started(key, call(key))
        return None

    @rule(target=refs, key=KEYS)
    def start_new(self, key: Any) -> Any:
        return self._start(self.registry.start_new, key)

    @rule(target=refs, key=KEYS)
    def start(self, key: Any) -> Any:
        return self._start(functools.partial(Modeled.start, self.registry), key)

    @rule(target=refs, key=KEYS)
    def get_or_start(self, key: Any) -> Any:
        if key in self.live and not self.stopped:
            ref = self.registry.get_or_start(key)
            assert ref is self.live[key][0]
            return ref
        return self._start(self.registry.get_or_start, key)

    @rule(key=KEYS)
    def start_that_fails(self, key: Any) -> None:
        if key not in self.live and not self.stopped:
            Modeled.fails_to_start = True
            with pytest.raises(ValueError, match="no start"):
                self.registry.get_or_start(key)
            Modeled.fails_to_start = False
            self.number += 1
            self.events.append(Terminated(key, self.number, EndReason.START_FAILED))

    @rule(target=refs, key=KEYS)
    def register(self, key: Any) -> Any:
        ref = Foreign.start()
        if self.stopped:
            with pytest.raises(RegistryStopped):
                self.registry.register(key, ref)
        elif key in self.live:
            with pytest.raises(KeyAlreadyRegistered):
                self.registry.register(key, ref)
        else:
            self.registry.register(key, ref)
            return self._started(key, ref)
        ref.stop()
        return None

    @rule(key=KEYS, ref=refs)
    def unregister(self, key: Any, ref: Any) -> None:
        if ref is None or ref.actor_class is not Foreign:
            return
        mine = key in self.live and self.live[key][0] is ref
        assert self.registry.unregister(key, ref) is mine
        if mine:
            self._ended(key, EndReason.UNREGISTERED)
            ref.stop()

    @rule(ref=refs)
    def stop_a_ref(self, ref: Any) -> None:
        if ref is None:
            return
        key = self._key_of(ref)
        foreign = ref.actor_class is Foreign
        assert ref.is_alive() or key is None
        assert ref.is_alive() is ref.stop()
        if key is not None:
            if foreign:  # found dead at the next look that needs its key, or by the sweep
                self.registry._table.sweep()
            self._ended(key, EndReason.UNKNOWN if foreign else EndReason.STOPPED)

    @rule(ref=refs)
    def fail_a_ref(self, ref: Any) -> None:
        if ref is None or ref.actor_class is Foreign or self._key_of(ref) is None:
            return
        key = self._key_of(ref)
        ref.tell("fail")
        assert ref.actor_stopped.wait(PATIENCE)
        self._ended(key, EndReason.FAILED)
        self._settle()

    @rule(ref=refs)
    def ask_a_ref(self, ref: Any) -> None:
        if ref is None or ref.actor_class is Foreign:
            return
        key = self._key_of(ref)
        if key is None:
            with pytest.raises(pykka.ActorDeadError):
                ref.ask("hello")
        else:
            self.asked[key] += 1
            assert ref.ask("hello") == self.asked[key]

    @rule()
    def stop_the_registry(self) -> None:
        assert self.registry.stop() is (not self.stopped)
        self.stopped = True
        foreign = [key for key, (ref, _) in self.live.items() if ref.actor_class is Foreign]
        ended = {key for key in self.live if key not in foreign}
        for key in foreign:
            self._ended(key, EndReason.UNREGISTERED)
        self._settle()
        # They stop in parallel, so their ends may come in any order.
        told = told_count(self.listener, len(self.events) + len(ended))
        assert {event.key for event in told[len(self.events) :]} == ended
        for event in told[len(self.events) :]:
            self._ended(event.key, EndReason.DRAINED)

    def _settle(self) -> None:
        """Wait until an end that was seen by its flag has been seen by the table, too."""
        told_count(self.listener, len(self.events))

    @invariant()
    def look_ups_agree(self) -> None:
        refs = {key: ref for key, (ref, _) in self.live.items()}
        assert dict(self.registry.items()) == refs
        assert len(self.registry) == len(refs)
        assert set(self.registry) == set(refs)
        for key in ("a", "b", 1, ("c", 2)):
            assert self.registry.get(key) is refs.get(key)
            assert (key in self.registry) is (key in refs)

    @invariant()
    def events_agree(self) -> None:
        assert told_count(self.listener, len(self.events)) == self.events

    def teardown(self) -> None:
        self.registry.stop()
        pykka.ActorRegistry.stop_all()
        super().teardown()


RegistryMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,  # what CI sees is what a developer sees
)
test_the_registry_and_its_model_agree = RegistryMachine.TestCase
