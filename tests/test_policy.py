"""What a registry's user decides: each keyword has a default, and is checked at the start."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from pykka_registry import AggregateRegistry
from pykka_registry._policy import Policies, Policy
from tests.support import Counting

DEFAULTS: dict[str, Any] = {
    "idle": None,
    "max_live": None,
    "max_starting": 64,
    "max_queued": 100_000,
    "start_timeout": 30.0,
    "stop_timeout": 30.0,
    "drain_timeout": 30.0,
    "restart": "on message",
    "backoff": (0.1, 30.0),
    "max_failures": 5,
    "failure_window": 60.0,
    "quarantine": 300.0,
    "dead_letters": 1_000,
    "on_dead_letter": None,
}

SECONDS = ["start_timeout", "stop_timeout", "drain_timeout", "failure_window"]
SECONDS_OR_NONE = ["idle", "quarantine"]
COUNTS = {"max_starting": 1, "max_queued": 1, "max_failures": 0, "dead_letters": 0}


def refused(error: type[Exception], text: str, **policies: Any) -> None:
    """Expect that a registry with these policies is refused, and that nothing is started."""
    with pytest.raises(error, match=text):
        AggregateRegistry.start(Counting, **policies)


def test_the_defaults_are_as_documented() -> None:
    assert {field.name: getattr(Policy(), field.name) for field in fields(Policy)} == DEFAULTS
    assert Policy.of({}) == Policy()


def test_each_keyword_is_documented_and_typed() -> None:
    assert set(Policies.__annotations__) == set(DEFAULTS)
    documentation = AggregateRegistry.start.__doc__ or ""
    for keyword, default in DEFAULTS.items():
        if isinstance(default, tuple):
            text = ", ".join(f"{number:g}" for number in default)  # pyright: ignore[reportUnknownVariableType]
            shown = [f"({text})"]
        elif isinstance(default, float):
            shown = [f"{default:g}"]
        elif isinstance(default, str):
            shown = [f'"{default}"']
        else:
            shown = [str(default), f"{default:_}" if isinstance(default, int) else "None"]
        assert any(f"`{keyword}={text}`" in documentation for text in shown), keyword


def test_a_policy_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Policy().idle = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_the_registry_takes_what_it_is_given() -> None:
    def hook(_letter: object) -> None: ...

    given: dict[str, Any] = {
        "idle": 1,
        "max_live": 2,
        "max_starting": 3,
        "max_queued": 4,
        "start_timeout": 5,
        "stop_timeout": 6.5,
        "drain_timeout": 7,
        "restart": "at once",
        "backoff": (0.8, 8),
        "max_failures": 9,
        "failure_window": 10,
        "quarantine": None,
        "dead_letters": 0,
        "on_dead_letter": hook,
    }
    assert set(given) == set(DEFAULTS)
    with AggregateRegistry.start(Counting, **given) as registry:
        policy = registry._table.policy
        assert {keyword: getattr(policy, keyword) for keyword in given} == given


@pytest.mark.parametrize("keyword", [*SECONDS, *SECONDS_OR_NONE])
@pytest.mark.parametrize("wrong", ["30", (30,), object, 1j, math.nan])
def test_seconds_are_a_number(keyword: str, wrong: object) -> None:
    refused(TypeError, f"^{keyword} must be a number of seconds, not ", **{keyword: wrong})


@pytest.mark.parametrize("keyword", [*SECONDS, *SECONDS_OR_NONE])
@pytest.mark.parametrize("wrong", [-1, -0.001, -math.inf])
def test_seconds_are_not_negative(keyword: str, wrong: float) -> None:
    refused(ValueError, f"^{keyword} must be at least 0 seconds, not {wrong}", **{keyword: wrong})


@pytest.mark.parametrize("keyword", SECONDS)
def test_some_seconds_must_be_given(keyword: str) -> None:
    refused(TypeError, f"^{keyword} must be a number of seconds, not None", **{keyword: None})


@pytest.mark.parametrize("keyword", [*SECONDS, *SECONDS_OR_NONE])
@pytest.mark.parametrize("seconds", [0, 0.0, 1e-300, 10**9, math.inf])
def test_any_time_from_none_at_all_to_for_ever_will_do(keyword: str, seconds: float) -> None:
    assert getattr(Policy.of({keyword: seconds}), keyword) == seconds


@pytest.mark.parametrize("keyword", [*COUNTS, "max_live"])
@pytest.mark.parametrize("wrong", ["5", 5.0, True, (5,), math.inf])
def test_a_count_is_a_whole_number(keyword: str, wrong: object) -> None:
    refused(TypeError, f"^{keyword} must be a whole number, not ", **{keyword: wrong})


@pytest.mark.parametrize(("keyword", "least"), [*COUNTS.items(), ("max_live", 1)])
def test_a_count_has_a_least_value(keyword: str, least: int) -> None:
    assert getattr(Policy.of({keyword: least}), keyword) == least
    for wrong in (least - 1, -1_000):
        text = f"^{keyword} must be at least {least}, not {wrong}$"
        refused(ValueError, text, **{keyword: wrong})


@pytest.mark.parametrize("keyword", COUNTS)
def test_a_count_that_must_be_given(keyword: str) -> None:
    refused(TypeError, f"^{keyword} must be a whole number, not None", **{keyword: None})


@pytest.mark.parametrize("wrong", ["always", "On message", None, True, 0, ""])
def test_restart_is_one_of_three_words(wrong: object) -> None:
    text = "^restart must be one of 'on message', 'at once', 'never', not "
    refused(ValueError, text, restart=wrong)


@pytest.mark.parametrize("wrong", [1, None, "12", [1, 2], (1,), (1, 2, 3), {1: 2}])
def test_backoff_is_a_pair(wrong: object) -> None:
    refused(TypeError, r"^backoff must be a tuple, \(first, most\), not ", backoff=wrong)


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        (("1", 2), TypeError, "^backoff's first must be a number of seconds, not '1'"),
        ((1, None), TypeError, "^backoff's most must be a number of seconds, not None"),
        ((-1, 2), ValueError, "^backoff's first must be at least 0 seconds, not -1"),
        ((2, 1), ValueError, "^backoff's most must be at least 2 seconds, not 1"),
    ],
)
def test_backoff_grows_from_its_first_to_its_most(
    wrong: object, error: type[Exception], text: str
) -> None:
    refused(error, text, backoff=wrong)


@pytest.mark.parametrize("wrong", ["print", 1, ()])
def test_the_hook_for_dead_letters_can_be_called(wrong: object) -> None:
    refused(TypeError, "^on_dead_letter must be callable, not ", on_dead_letter=wrong)


def test_a_slip_of_the_pen_is_told_what_was_meant() -> None:
    text = r"^AggregateRegistry\.start\(\) has no keyword 'max_lives': did you mean 'max_live'\?$"
    refused(TypeError, text, max_lives=3)


def test_a_keyword_like_no_other_is_told_which_there_are() -> None:
    text = rf"^AggregateRegistry\.start\(\) has no keyword 'xyz': there are {', '.join(DEFAULTS)}$"
    refused(TypeError, text, xyz=3)


def test_a_registry_without_a_class_has_the_same_keywords() -> None:
    with pytest.raises(ValueError, match="max_live must be at least 1"):
        AggregateRegistry.start(max_live=0)
    with pytest.raises(TypeError, match="did you mean 'idle'"):
        AggregateRegistry.start(idel=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    with AggregateRegistry.start(max_live=1) as registry:
        assert Counting.start(registry, "a").is_alive()
