"""A proxy to an aggregate's key: like Pykka's, without a live actor and without introspection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from pykka import messages

from pykka_registry._aggregate import AggregateMixin
from pykka_registry._checks import class_attribute

if TYPE_CHECKING:
    import pykka

    from pykka_registry._ref import AggregateRef

__all__ = ["AggregateMethod", "AggregateProxy"]

A = TypeVar("A", bound=AggregateMixin)


class AggregateProxy(Generic[A]):
    """Calls methods and reads attributes of an aggregate, wherever its life is just now.

    What is callable in the class is a method, and calling it returns a future. What the class has
    marked as traversable is gone into. Any other name is read from the live aggregate: that returns
    a future, which fails with `AttributeError` if there is no such attribute. Methods and
    traversable attributes that only the instance has need `registry.get(key).proxy()`. Setting an
    attribute waits until it is set, as in Pykka.

    Names that begin with an underscore are private, and an `AttributeError`.
    """

    __slots__ = ("_owner", "_path", "actor_ref")

    actor_ref: AggregateRef[A]
    _owner: object
    _path: tuple[str, ...]

    def __init__(
        self, ref: AggregateRef[A], path: tuple[str, ...] = (), owner: object = None
    ) -> None:
        blueprint = ref._table.blueprint
        if not path:
            owner = None if blueprint is None else blueprint.aggregate_class
        object.__setattr__(self, "actor_ref", ref)
        object.__setattr__(self, "_path", path)
        object.__setattr__(self, "_owner", owner)

    def __repr__(self) -> str:
        return f"<AggregateProxy {'.'.join(self._path)!r} of {self.actor_ref!r}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AggregateProxy):
            return NotImplemented
        theirs: AggregateProxy[Any] = other  # pyright: ignore[reportUnknownVariableType]
        return (self.actor_ref, self._path) == (theirs.actor_ref, theirs._path)

    def __hash__(self) -> int:
        return hash((self.actor_ref, self._path))

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._owner) if not name.startswith("_")]

    def __getattr__(self, name: str) -> Any:
        """Return a method to call, a proxy to go on with, or a future of the value."""
        if name.startswith("_"):
            msg = f"{name!r} is private: a proxy shows public names only"
            raise AttributeError(msg)
        path = (*self._path, name)
        owner = self._owner
        if isinstance(owner, type):
            found = class_attribute(cast("type[Any]", owner), name)
        else:
            found = getattr(owner, name, None)
        if callable(found):
            return AggregateMethod(self.actor_ref, path)
        if (
            getattr(found, "_pykka_traversable", False) is True
            or getattr(found, "pykka_traversable", False) is True
        ):
            return AggregateProxy(self.actor_ref, path, found)
        return self.actor_ref.ask(messages.ProxyGetAttr(attr_path=path), block=False)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the aggregate, and wait until that is done."""
        if name.startswith("_"):
            msg = f"{name!r} is private: a proxy shows public names only"
            raise AttributeError(msg)
        self.actor_ref.ask(messages.ProxySetAttr(attr_path=(*self._path, name), value=value))


class AggregateMethod:
    """A method of an aggregate, to be called or told."""

    __slots__ = ("_path", "_ref")

    def __init__(self, ref: AggregateRef[Any], path: tuple[str, ...]) -> None:
        self._ref = ref
        self._path = path

    def __repr__(self) -> str:
        return f"<AggregateMethod {'.'.join(self._path)!r} of {self._ref!r}>"

    def __call__(self, *args: Any, **kwargs: Any) -> pykka.Future[Any]:
        """Call it; return a future of the result."""
        return self._ref.ask(self._message(args, kwargs), block=False)

    def defer(self, *args: Any, **kwargs: Any) -> None:
        """Tell the aggregate to run it. What it raises ends the incarnation, as in Pykka."""
        self._ref.tell(self._message(args, kwargs))

    def _message(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> messages.ProxyCall:
        return messages.ProxyCall(attr_path=self._path, args=args, kwargs=kwargs)
