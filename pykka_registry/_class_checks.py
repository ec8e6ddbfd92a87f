"""Aggregate classes that could not work, found when they are defined or a registry is started."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, get_origin

import pykka

from pykka_registry._pooled import PooledActor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "check_aggregate_class",
    "check_arguments",
    "check_bases",
    "check_startable",
    "constructor_after",
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


def check_aggregate_class(wanted: object, mixin: type[Any]) -> type[Any]:
    """Return the class, which may be written `Box[int]`.

    Raises:
        TypeError: If this is no aggregate class that can be started.

    """
    cls = get_origin(wanted) or wanted
    if not (isinstance(cls, type) and issubclass(cls, mixin)) or cls is mixin:
        msg = (
            f"{wanted!r} is no aggregate class: write "
            f"class Account({mixin.__name__}, pykka.ThreadingActor), and pass the class"
        )
        raise TypeError(msg)
    check_startable(cls)
    return cls


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


def constructor_after(cls: type[pykka.Actor], mixin: type[Any]) -> Any:
    """Return the constructor that comes after the mixin's, if it is not a runtime's or Pykka's."""
    for base in cls.__mro__[cls.__mro__.index(mixin) + 1 :]:
        if "__init__" in vars(base):
            return None if base in {PooledActor, pykka.Actor} else vars(base)["__init__"]
    return None  # pragma: no cover  # Pykka's own is there


def check_arguments(
    cls: type[pykka.Actor],
    mixin: type[Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    hint: str = "",
) -> None:
    """Raise `TypeError` if the constructor of `cls` does not take these arguments."""
    new: object = cls.__new__
    init: Any = cls.__init__
    if init is mixin.__init__:
        init = constructor_after(cls, mixin)
    if init is None and new is mixin.__new__ and (args or kwargs):
        # Pykka's own constructor takes whatever it is given, and does nothing with it.
        msg = f"{cls.__name__} has no __init__ of its own, so it takes no arguments{hint}"
        raise TypeError(msg)
    try:
        signature = inspect.signature(init or mixin.__init__)
    except ValueError:  # pragma: no cover  # a constructor written in C may have no signature
        return
    try:
        signature.bind(None, *args, **kwargs)
    except TypeError as error:
        takes = ", ".join(list(map(str, signature.parameters.values()))[1:])
        msg = f"{cls.__name__}({takes}) does not take these arguments: {error}{hint}"
        raise TypeError(msg) from None
