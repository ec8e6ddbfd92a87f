"""Whether a value comes back from a receipt as it was, which equality alone does not tell."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any, cast

from eventsourcing.utils import TopicError, construct_topic, resolve_topic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["check_can_be_raised_again", "check_has_topic", "is_same", "made_again", "shown"]


def is_same(kept: Any, given: Any) -> bool:
    """Tell whether two values are equal and, with all that they consist of, of the same types.

    An `IntEnum` equals a number, and a `Counter` a dict; but who gets one in place of the other is
    not answered as before.
    """
    if type(kept) is not type(given):
        return False
    if issubclass(type(given), list | tuple):
        return len(kept) == len(given) and all(map(is_same, kept, given))
    if issubclass(type(given), dict | set | frozenset):
        found = {key: key for key in kept}
        return len(kept) == len(given) and all(
            key in found
            and is_same(found[key], key)
            and (not issubclass(type(given), dict) or is_same(kept[key], given[key]))
            for key in given
        )
    if dataclasses.is_dataclass(given):
        names = [field.name for field in dataclasses.fields(given) if field.compare]
        return bool(kept == given) and all(
            is_same(getattr(kept, name), getattr(given, name)) for name in names
        )
    # Not a number is not equal to itself.
    return bool(kept == given or (kept != kept and given != given))  # noqa: PLR0124


def shown(value: object) -> str:
    """Return a value's `repr`, or what can be said of it without."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  # a number with too many digits, for one
        return f"an object of type {type(value).__name__}"


def check_has_topic(cls: type[Any]) -> None:
    """Raise `TypeError` if another process could not find a class by its topic."""
    topic = construct_topic(cls)
    found: object
    if hasattr(cls, "TOPIC"):
        try:
            found = resolve_topic(topic)
        except TopicError:
            found = None
    else:
        # Not by the library, which remembers a topic without looking where it leads.
        found = sys.modules.get(cls.__module__)
        for name in cls.__qualname__.split("."):
            found = getattr(found, name, None)
    if found is not cls:
        message = (
            f"{cls!r} could not be found again by its topic, {topic!r}, to raise a refusal that "
            "has a receipt: define it in a module, not in a function, under its own name; a class "
            "that has a TOPIC needs one of its own, and must be one of the refusals itself"
        )
        raise TypeError(message)


def made_again(
    cls: type[Exception], arguments: Iterable[Any], attributes: Mapping[str, Any]
) -> Exception:
    """Make an error from what a receipt has of it."""
    # Not by its `__init__`, which may take other arguments than it hands on.
    arguments = tuple(arguments)
    error = cls.__new__(cls, *arguments)
    error.args = arguments
    vars(error).update(attributes)
    return error


def check_can_be_raised_again(error: Exception) -> None:
    """Raise `TypeError` if an error has more than its arguments and attributes."""
    cls = type(error)
    try:
        again = made_again(cls, error.args, vars(error))
    except Exception as reason:
        message = (
            f"{cls.__qualname__} could not be raised again from its arguments, {shown(error.args)} "
            f"({reason}): its __new__ must do with the error's args"
        )
        raise TypeError(message) from reason
    hashable: Any = cls
    for name in _members(hashable):
        if not is_same(getattr(again, name, None), getattr(error, name, None)):
            message = (
                f"{cls.__qualname__} could not be raised again with its {name}: set it as an "
                "ordinary attribute, which no __slots__ and no base written in C has"
            )
            raise TypeError(message)


@functools.lru_cache(maxsize=1_000)
def _members(cls: Any) -> list[str]:
    """Return the names of those attributes that are not in `vars`."""
    members: dict[str, object] = {}
    for base in cast("type[Any]", cls).__mro__:
        members.update(vars(base))
    return [
        name
        for name, value in members.items()
        if (inspect.ismemberdescriptor(value) or inspect.isgetsetdescriptor(value))
        and not name.startswith("__")
        and name != "args"
    ]
