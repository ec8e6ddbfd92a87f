"""Wrong use, found at the earliest moment, with the fix in the text."""

from __future__ import annotations

import concurrent.futures
import difflib
import inspect
from typing import TYPE_CHECKING, Any, cast

import pykka

from pykka_registry._pooled import PooledActor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "check_aggregate_class",
    "check_arguments",
    "check_bases",
    "check_callable",
    "check_choice",
    "check_count",
    "check_executor",
    "check_foreign",
    "check_is_ref",
    "check_is_tuple",
    "check_key",
    "check_keywords",
    "check_method",
    "check_pair",
    "check_ref",
    "check_seconds",
    "check_startable",
    "check_timeout",
    "class_attribute",
]

# What a runtime is made of in Pykka: a class that overrides one of these brings a runtime of its
# own.
_RUNTIME = frozenset(
    {
        "_actor_loop",
        "_actor_loop_running",
        "_actor_loop_setup",
        "_actor_loop_teardown",
        "_create_actor_inbox",
        "_create_future",
        "_start_actor_loop",
    }
)


def check_bases(cls: type[pykka.Actor], mixin: type[Any]) -> None:
    """Raise `TypeError` if `cls` could not work as an aggregate class.

    Its bases may be in the wrong order, it may have a runtime that aggregates do not run on, or it
    may hide what the mixin gives it.
    """
    # Not issubclass(): after a class definition that was refused, abc may answer from a cache that
    # the half-made class shares with its base. So it is in check_startable.
    for base in cls.__mro__[: cls.__mro__.index(mixin)]:
        if pykka.Actor in base.__mro__ and mixin not in base.__mro__:
            aggregates = [b.__name__ for b in cls.__bases__ if mixin in b.__mro__]
            others = [
                "pykka.ThreadingActor" if b is pykka.ThreadingActor else b.__name__
                for b in cls.__bases__
                if mixin not in b.__mro__
            ]
            msg = (
                f"{mixin.__name__} must come before {base.__name__} in the bases of "
                f"{cls.__name__}: write class {cls.__name__}({', '.join([*aggregates, *others])})"
            )
            raise TypeError(msg)
    for base in cls.__mro__:
        if base in {mixin, pykka.ThreadingActor, PooledActor, pykka.Actor}:
            continue
        if own := _RUNTIME & vars(base).keys():
            msg = (
                f"{base.__name__} is a runtime of its own, for it defines "
                f"{', '.join(sorted(own))}; {mixin.__name__} works with pykka.ThreadingActor and "
                f"PooledActor: write class {cls.__name__}({mixin.__name__}, pykka.ThreadingActor)"
            )
            raise TypeError(msg)
        if hidden := {"key", "registry"} & vars(base).keys():
            msg = (
                f"{base.__name__} defines {' and '.join(sorted(hidden))}, which every aggregate "
                "has from its registry; call it by another name"
            )
            raise TypeError(msg)


def check_aggregate_class(cls: object, mixin: type[Any]) -> None:
    """Raise `TypeError` if `cls` is no aggregate class that can be started."""
    if not (isinstance(cls, type) and issubclass(cls, mixin)):
        msg = (
            f"{cls!r} is no aggregate class: write "
            f"class Account({mixin.__name__}, pykka.ThreadingActor), and pass the class"
        )
        raise TypeError(msg)
    check_startable(cast("type[pykka.Actor]", cls))


def check_is_tuple(args: object) -> None:
    """Raise `TypeError` for `args=(one)`, which is no tuple."""
    if not isinstance(args, tuple):
        msg = f"args must be a tuple, not {args!r}: for one argument write args=(argument,)"
        raise TypeError(msg)


def check_startable(cls: type[pykka.Actor]) -> None:
    """Raise `TypeError` if `cls` has no runtime to live on, or lacks a method that it must have."""
    runtimes = {pykka.ThreadingActor, PooledActor}.intersection(cls.__mro__)
    if len(runtimes) != 1:
        msg = (
            f"{cls.__name__} has {'two runtimes' if runtimes else 'no runtime'}: write "
            f"class {cls.__name__}(AggregateMixin, pykka.ThreadingActor), "
            f"or class {cls.__name__}(AggregateMixin, PooledActor)"
        )
        raise TypeError(msg)
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        msg = f"{cls.__name__} is abstract: it lacks {missing}"
        raise TypeError(msg)


def check_arguments(
    cls: type[pykka.Actor], args: Sequence[Any], kwargs: Mapping[str, Any], hint: str = ""
) -> None:
    """Raise `TypeError` if the constructor of `cls` does not take these arguments."""
    try:
        signature = inspect.signature(cls.__init__)
    except ValueError:  # pragma: no cover  # a constructor written in C may have no signature
        return
    try:
        signature.bind(None, *args, **kwargs)
    except TypeError as error:
        takes = ", ".join(list(map(str, signature.parameters.values()))[1:])
        msg = f"{cls.__name__}({takes}) does not take these arguments: {error}{hint}"
        raise TypeError(msg) from None


def check_seconds(seconds: object, what: str, *, least: float = float("-inf")) -> None:
    """Raise `TypeError` or `ValueError` if `seconds` is no number, or less than `least`."""
    if not isinstance(seconds, int | float) or seconds != seconds:  # noqa: PLR0124  # NaN
        msg = f"{what} must be a number of seconds, not {seconds!r}"
        raise TypeError(msg)
    if seconds < least:
        msg = f"{what} must be at least {least:g} seconds, not {seconds!r}"
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
