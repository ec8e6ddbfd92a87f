"""Whether a value comes back from a receipt as it was, which equality alone does not tell."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["is_same", "shown"]


def is_same(kept: Any, given: Any) -> bool:
    """Tell whether two values are equal and, with all that they consist of, of the same types.

    An `IntEnum` equals a number, and a `Counter` a dict; but who gets one in place of the other is
    not answered as before.
    """
    cls: type[Any] = type(given)
    if type(kept) is not cls:
        return False
    if issubclass(cls, list | tuple):
        return len(kept) == len(given) and all(map(is_same, kept, given))
    if issubclass(cls, dict | set | frozenset):
        found = {key: key for key in kept}
        return len(kept) == len(given) and all(
            key in found
            and is_same(found[key], key)
            and (not issubclass(cls, dict) or is_same(kept[key], given[key]))
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
