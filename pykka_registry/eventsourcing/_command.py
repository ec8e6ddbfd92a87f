"""What is asked of a live aggregate, and what it answers."""

from __future__ import annotations

import contextlib
import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypedDict, TypeVar, cast
from uuid import UUID

from eventsourcing.domain import BaseAggregate

from pykka_registry._checks import check_count, check_timeout, class_attribute

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventsourcing.domain import DomainEventProtocol

__all__ = [
    "NO_TERMS",
    "Arguments",
    "Command",
    "Decision",
    "Options",
    "Terms",
    "check_command_id",
    "name_of",
    "of_factory",
    "of_method",
]

R = TypeVar("R")

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Those without a name, and those with one."""


@dataclass(frozen=True, slots=True)
class Decision(Generic[R]):
    """What a command has decided."""

    result: R
    """What the method has returned."""

    version: int
    """The version that the aggregate has by it."""

    events: tuple[DomainEventProtocol[Any], ...] = ()
    """The aggregate's new events."""

    is_repeated: bool = False
    """Whether the command had been decided before, so that this is the first answer again."""


class Options(TypedDict, total=False):
    """The keywords of `using`, for type checkers; `Terms` says what they mean."""

    timeout: float | None
    command_id: UUID | str | None
    expected_version: int | None


class Terms(NamedTuple):
    """On what terms a command is sent."""

    timeout: float | None = None
    """Seconds to wait for the answer; `None`: for as long as it takes."""

    command_id: UUID | str | None = None
    """What the command is known by: it is done once. `None`: as often as it is sent."""

    expected_version: int | None = None
    """The version that the aggregate must have, 0 if it must be new. `None`: whichever it has."""

    def but(self, options: Options) -> Terms:
        """Return the same with other options.

        Raises:
            TypeError: if there is no such option, or one is of the wrong type.
            ValueError: if a command id is empty or no text that can be stored, a version is less
                than 0, or a timeout more than a float can hold. A negative timeout is no error: it
                is over at once, as it is for Pykka.
        """
        try:
            terms = self._replace(**options)
        except ValueError as error:  # of a named tuple
            raise TypeError(*error.args) from None
        check_timeout(terms.timeout)
        if terms.command_id is not None:
            check_command_id(terms.command_id)
        if terms.expected_version is not None:
            check_count(terms.expected_version, "expected_version", least=0)
        return terms


NO_TERMS = Terms()


# Not frozen, as that would make it several times as long to make one.
@dataclass(slots=True)
class Command:
    """One turn's work. Nobody changes it."""

    name: str
    """What it is called in receipts."""

    run: Callable[[Any], Any]
    """Decides: what it triggers on the aggregate is stored, what it returns is answered."""

    arguments: Arguments = ((), {})
    """What makes it the same command, beside its name."""

    new: Callable[[], Any] | None = None
    """Makes the aggregate if there is none. `None`: then there must be one."""

    must_be_new: bool = False
    """Whether there must be none."""

    makes_id: bool = False
    """Whether the id comes with the aggregate: perhaps by chance, so that it is another each time
    that the command is sent."""

    stores: bool = True
    """Whether it may trigger events."""

    terms: Terms = NO_TERMS

    @property
    def may_share(self) -> bool:
        """Whether it may be stored together with others, because it insists on nothing."""
        return self.stores and not self.must_be_new and self.terms.expected_version is None


def check_command_id(command_id: object) -> None:
    """Raise `TypeError` or `ValueError` if a command cannot be known by this."""
    if isinstance(command_id, UUID):
        return
    if not isinstance(command_id, str):
        message = f"a command id must be a str or a UUID, not {command_id!r}"
        raise TypeError(message)
    if not command_id:
        message = "a command id must not be empty, or different commands would be taken for one"
        raise ValueError(message)
    try:
        command_id.encode()
    except UnicodeEncodeError as error:
        message = f"the command id {command_id!r} cannot be stored: {error}"
        raise ValueError(message) from None


@functools.lru_cache(maxsize=1_000)
def _is_method(name: str, cls: Any) -> bool:
    # To get one of the library's commands from its class takes longer than to send it.
    return name.isidentifier() and callable(class_attribute(cls, name))


def _signature(function: object) -> inspect.Signature | None:
    # The library's commands have no signature of their own.
    decorator = getattr(function, "event_decorator", None)
    function = getattr(decorator, "decorated_func", function)
    try:
        return inspect.signature(cast("Callable[..., Any]", function))
    except (TypeError, ValueError):  # it is written in C, as a rule
        return None


@functools.lru_cache(maxsize=1_000)
def _signature_in(name: str, cls: Any) -> inspect.Signature | None:
    return _signature(class_attribute(cls, name))


@functools.lru_cache(maxsize=1_000)
def _keywords_only_in(name: str, cls: Any) -> frozenset[str]:
    """Return the arguments of a method that can be passed in one way only, by their names."""
    signature = _signature_in(name, cls)
    parameters = () if signature is None else signature.parameters.values()
    return frozenset(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)


def of_method(
    name: str, cls: type[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Arguments:
    """Return the arguments of a method so that they are the same however they were passed."""
    if not kwargs:
        return args, kwargs
    hashable: Any = cls
    if kwargs.keys() <= _keywords_only_in(name, hashable):
        return args, kwargs  # to bind them would take as long as all the rest of sending
    args, kwargs = _bound(_signature_in(name, hashable), (None, *args), kwargs)
    return args[1:], kwargs


def of_factory(factory: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """Return the arguments of a factory so that they are the same however they were passed."""
    if isinstance(factory, type):
        return of_method("__init__", factory, args, kwargs)
    return _bound(_signature(factory), args, kwargs) if kwargs else (args, kwargs)


def _bound(
    signature: inspect.Signature | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Arguments:
    if signature is not None:
        with contextlib.suppress(TypeError):  # the call will say what is wrong
            bound = signature.bind(*args, **kwargs)
            return bound.args, bound.kwargs
    return args, kwargs


def name_of(method: object, cls: type[Any]) -> str:
    """Return the name of a method of a class; by it an override is found.

    Raises:
        TypeError: if this is no method of the class.
    """
    name = getattr(method, "__name__", None)
    hashable: Any = cls
    # Of a command of the library's it is `obj`.
    owner = getattr(method, "__self__", getattr(method, "obj", None))
    if isinstance(owner, BaseAggregate):
        message = f"{name} is bound to one object: pass {cls.__name__}.{name}, from the class"
        raise TypeError(message)
    if not (callable(method) and isinstance(name, str) and _is_method(name, hashable)):
        message = (
            f"{method!r} is no method of {cls.__name__}: pass one, like {cls.__name__}.deposit; "
            "to look at the aggregate use query(lambda aggregate: ...)"
        )
        raise TypeError(message)
    return name
