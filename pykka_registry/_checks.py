"""Wrong use, found at the earliest moment, with the fix in the text."""

from __future__ import annotations

import concurrent.futures
import difflib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pykka

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "check_callable",
    "check_choice",
    "check_count",
    "check_executor",
    "check_foreign",
    "check_is_mapping",
    "check_is_name",
    "check_is_ref",
    "check_is_tuple",
    "check_key",
    "check_keywords",
    "check_method",
    "check_pair",
    "check_ref",
    "check_seconds",
    "check_timeout",
    "class_attribute",
]


def check_is_tuple(args: object) -> None:
    """Raise `TypeError` for `args=(one)`, which is no tuple."""
    if not isinstance(args, tuple):
        msg = f"args must be a tuple, not {args!r}: for one argument write args=(argument,)"
        raise TypeError(msg)


def check_is_mapping(kwargs: object) -> None:
    """Raise `TypeError` for `kwargs` that are no mapping."""
    if not isinstance(kwargs, Mapping):
        msg = f"kwargs must be a mapping, not {kwargs!r}"
        raise TypeError(msg)


def check_is_name(name: object) -> None:
    """Raise `TypeError` for a name that is no text."""
    if not isinstance(name, str):
        msg = f"name must be a str, not {name!r}"
        raise TypeError(msg)


def check_seconds(
    seconds: object, what: str, *, least: float = -math.inf, finite: bool = False
) -> None:
    """Raise `TypeError` or `ValueError` if `seconds` is no number, or less than `least`.

    An infinite number will do, unless it must be `finite`.
    """
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or math.isnan(seconds):
        msg = f"{what} must be a number of seconds, not {seconds!r}"
        raise TypeError(msg)
    if seconds < least:
        msg = f"{what} must be at least {least:g} seconds, not {seconds!r}"
        raise ValueError(msg)
    if finite and math.isinf(seconds):
        msg = f"{what} must be a finite number of seconds, not {seconds!r}"
        raise ValueError(msg)


def check_callable(function: object, what: str) -> None:
    """Raise `TypeError` if `function` cannot be called."""
    if not callable(function):
        msg = f"{what} must be callable, not {function!r}"
        raise TypeError(msg)


def check_choice(choice: object, what: str, choices: Sequence[object]) -> None:
    """Raise `ValueError` if `choice` is none of the choices."""
    if choice not in choices:
        msg = f"{what} must be one of {', '.join(map(repr, choices))}, not {choice!r}"
        raise ValueError(msg)


def check_pair(pair: object, what: str, names: str) -> None:
    """Raise `TypeError` if `pair` is no tuple of two."""
    if not (isinstance(pair, tuple) and len(pair) == 2):  # pyright: ignore[reportUnknownArgumentType]  # noqa: PLR2004
        msg = f"{what} must be a tuple, {names}, not {pair!r}"
        raise TypeError(msg)


def check_count(count: object, what: str, *, least: int) -> None:
    """Raise `TypeError` or `ValueError` if `count` is no whole number, or less than `least`."""
    if not isinstance(count, int) or isinstance(count, bool):
        msg = f"{what} must be a whole number, not {count!r}"
        raise TypeError(msg)
    if count < least:
        msg = f"{what} must be at least {least}, not {count}"
        raise ValueError(msg)


def check_executor(executor: object, what: str) -> None:
    """Raise `TypeError` if `executor` cannot run turns, which need this process's threads."""
    if executor is None:
        return
    if not isinstance(executor, concurrent.futures.Executor) or isinstance(
        executor, concurrent.futures.ProcessPoolExecutor
    ):
        msg = (
            f"{what} must be an executor whose tasks run in threads of this process, such as "
            f"concurrent.futures.ThreadPoolExecutor(32), not {executor!r}"
        )
        raise TypeError(msg)


def check_keywords(keywords: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise `TypeError` for a keyword that is not known, with the one that was meant."""
    for keyword in keywords:
        if keyword not in known:
            close = difflib.get_close_matches(keyword, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            msg = f"{where} has no keyword {keyword!r}: {hint}"
            raise TypeError(msg)


def class_attribute(cls: type[Any], name: str) -> Any:
    """Return what instances of `cls` have from it by this name, or `None`."""
    # Not getattr() alone, which finds what only the class itself has, from its metaclass.
    return getattr(cls, name) if any(name in vars(base) for base in cls.__mro__) else None


def check_method(method: object, cls: type[Any] | None) -> str:
    """Return the name of `method`; raise `TypeError` if it is no method of `cls`.

    What counts is the name: a subclass may override the method.
    """
    owner = "Account" if cls is None else cls.__name__
    name = getattr(method, "__name__", None)
    if isinstance(getattr(method, "__self__", None), pykka.Actor):
        msg = f"{method!r} is bound to one actor: pass {owner}.{name}, from the class"
        raise TypeError(msg)
    if not callable(method) or not isinstance(name, str) or not name.isidentifier():
        msg = f"{method!r} has no name to send: pass a method of the class, like {owner}.deposit"
        if not callable(method):
            attribute = getattr(getattr(method, "fget", None), "__name__", "balance")
            msg += f"; read an attribute with ref.proxy().{attribute}"
        raise TypeError(msg)
    if cls is not None and not callable(class_attribute(cls, name)):
        msg = f"{owner} has no method {name!r}: pass one of its own, like {owner}.deposit"
        raise TypeError(msg)
    return name


def check_timeout(timeout: object) -> None:
    """Raise if `timeout` is neither `None` nor a number of seconds."""
    if timeout is not None:
        check_seconds(timeout, "timeout")


def check_key(key: object) -> None:
    """Raise `TypeError` if `key` cannot be a key."""
    try:
        hash(key)
    except TypeError as error:
        msg = (
            f"a key must be hashable, and {key!r} is not ({error}); "
            "use a str, an int, a UUID or a tuple of such"
        )
        raise TypeError(msg) from None


def check_is_ref(ref: object, what: str) -> None:
    """Raise `TypeError` if `ref` is no actor's ref."""
    if not isinstance(ref, pykka.ActorRef):
        msg = f"{what} must be an ActorRef, as an actor's start() returns it, not {ref!r}"
        raise TypeError(msg)


def check_ref(ref: pykka.ActorRef[Any], what: str) -> None:
    """Raise `TypeError` if `ref` is no actor's ref, and `ActorDeadError` if it is a dead one's."""
    check_is_ref(ref, what)
    if not ref.is_alive():
        msg = f"{what} {ref} is dead; start it anew"
        raise pykka.ActorDeadError(msg)


def check_foreign(ref: object, mixin: type[Any], fix: str) -> None:
    """Raise `TypeError` if `ref` is an aggregate's."""
    if issubclass(getattr(ref, "actor_class", type(None)), mixin):
        msg = (
            f"{ref} is an aggregate, which its registry registers and unregisters by itself: {fix}"
        )
        raise TypeError(msg)
