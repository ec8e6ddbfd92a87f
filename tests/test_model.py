"""The registry against its model: every call in every state of the matrix, in any order."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pykka_registry import DeadLetterReason, EndReason
from tests.driver import (
    BUSY,
    CALLS,
    CELLS,
    COLUMNS,
    KEYS,
    NEEDS_A_BUSY_ONE,
    OPEN,
    SHUTDOWNS,
    STOPPED,
    STOPPING,
    Driver,
    Seen,
)
from tests.model import State, Then

CALLS_IN_STATES = [(call, column) for call in CALLS for column in COLUMNS]


def stroll(first: int, stride: int, count: int) -> list[tuple[str, str]]:
    """Go through the matrix: many cells for a few choices of Hypothesis."""
    cells = len(CALLS_IN_STATES)
    return [CALLS_IN_STATES[(first + i * stride) % cells] for i in range(count)]


A_CELL = st.integers(0, len(CALLS_IN_STATES) - 1)
A_STRIDE = st.integers(1, len(CALLS_IN_STATES) - 1)
STROLLS = st.builds(stroll, A_CELL, A_STRIDE, st.integers(1, 16))
A_KEY = st.sampled_from(KEYS)
A_COLUMN = st.sampled_from(COLUMNS)


@pytest.mark.parametrize("column", COLUMNS)
def test_each_call_does_in_each_state_what_the_matrix_says(column: str) -> None:
    """While the registry is open, while it is stopping, and when it has stopped."""
    key, other = KEYS
    seen = Seen()
    registries = [OPEN, STOPPING]
    if column in {"absent", "abandoned"}:  # a key is nothing else when the registry has stopped
        registries.append(STOPPED)
    for call, registry in itertools.product((*CALLS, *SHUTDOWNS), registries):
        with Driver(seen) as driver:
            driver.bring(other, BUSY)
            driver.bring(key, State.ACTIVE.value)  # so that there is a ref to call
            driver.bring(key, column)
            assert driver.column(key) == column
            if registry != OPEN:
                driver.call("drain", other)
            if registry == STOPPED:
                driver.cut_the_shutdown_short()
            if registry != STOPPED or call not in NEEDS_A_BUSY_ONE:
                driver.call(call, key)
    assert {cell for cell in CELLS if cell[1] in {column, *registries}} <= set(seen.cells)


class Machine(RuleBasedStateMachine):
    """Makes calls in any order."""

    seen = Seen()
    max_live: int | None = None

    driver: Driver

    @initialize(
        restart=st.sampled_from(["on message", "at once"]),
        first=A_CELL,
        stride=A_STRIDE,
    )
    def begin(self, restart: Any, first: int, stride: int) -> None:
        self.driver = Driver(self.seen, restart, self.max_live)
        self.walk(stroll(first, stride, 16))

    def walk(self, cells: list[tuple[str, str]]) -> None:
        for (call, column), key in zip(cells, itertools.cycle(KEYS), strict=False):
            self.driver.bring(key, column)
            self.driver.call(call, key)

    @rule(cells=STROLLS)
    def call_in_states(self, cells: list[tuple[str, str]]) -> None:
        self.walk(cells)

    @rule(cells=STROLLS, key=A_KEY)
    def call_as_it_is(self, cells: list[tuple[str, str]], key: Any) -> None:
        for call, _ in cells:
            self.driver.call(call, key)

    @rule(knob=st.sampled_from(["slow_start", "slow_stop", "bad_start"]), key=A_KEY)
    def turn(self, knob: str, key: Any) -> None:
        keys: set[Any] = getattr(self.driver.knobs, knob)
        keys ^= {key}

    @precondition(lambda self: self.driver.stage.held)
    @rule(then=st.sampled_from(Then), key=A_KEY)
    def open_a_gate(self, then: Then, key: Any) -> None:
        if key in self.driver.stage.held:
            self.driver.open(key, then)

    @rule()
    def pass_time(self) -> None:
        self.driver.wait_for_an_alarm()

    @precondition(lambda self: self.driver.foreign)
    @rule(key=A_KEY)
    def kill_a_foreign_actor(self, key: Any) -> None:
        self.driver.kill_a_foreign_actor(key)

    @precondition(lambda self: self.driver.steps > 20)
    @rule(call=st.sampled_from(SHUTDOWNS), columns=st.tuples(A_COLUMN, A_COLUMN), cells=STROLLS)
    def shut_down(self, call: str, columns: tuple[str, str], cells: list[tuple[str, str]]) -> None:
        for key, column in zip(KEYS, columns, strict=True):
            self.driver.bring(key, column)
        self.driver.call(call, KEYS[0])
        for (name, _), key in zip(cells, itertools.cycle(KEYS), strict=False):
            self.driver.call(name, key)

    @precondition(lambda self: self.driver.model.closed and not self.driver.model.over)
    @rule()
    def cut_the_shutdown_short(self) -> None:
        self.driver.cut_the_shutdown_short()

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            self.driver.end()
        super().teardown()


@pytest.mark.parametrize("max_live", [None, 1])
def test_the_registry_and_its_model_agree_whatever_is_called_in_whatever_order(
    max_live: int | None,
) -> None:
    """With a ceiling of one the two keys drive each other out.

    It goes on until every cell of the matrix was seen, and every reason for an end. What CI sees is
    what a developer sees.
    """
    Machine.seen = seen = Seen()
    Machine.max_live = max_live
    least, most = (7, 60) if max_live is None else (2, 20)
    for number in range(most):
        run_state_machine_as_test(
            seed(number)(Machine),
            settings=settings(
                max_examples=8,
                stateful_step_count=12,
                derandomize=True,
                deadline=None,
                # To make a failure smaller takes minutes; the driver tells what led to it.
                phases=[Phase.generate],
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )
        if number >= least and not missing(seen, max_live):
            break
    assert missing(seen, max_live) == set()


def missing(seen: Seen, max_live: int | None) -> set[object]:
    """Return what ought to have been seen, and was not."""
    by_the_ceiling: set[object] = {EndReason.EVICTED, DeadLetterReason.OVERLOADED}
    expected: set[object] = {*CELLS, *EndReason, *DeadLetterReason}
    expected = expected - by_the_ceiling if max_live is None else by_the_ceiling
    return expected - {*seen.cells, *seen.ends, *seen.deaths}
