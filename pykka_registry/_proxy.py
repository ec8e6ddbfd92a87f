"""A proxy to an aggregate's key: like Pykka's, without a live actor and without introspection."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast

from pykka import messages

from pykka_registry._aggregate import AggregateMixin
from pykka_registry._checks import class_attribute
from pykka_registry._future import Future

if TYPE_CHECKING:
    import pykka

    from pykka_registry._ref import AggregateRef

__all__ = ["AggregateMethod", "AggregateProxy"]

A = TypeVar("A", bound=AggregateMixin)


class AggregateProxy(Generic[A]):
    """Calls methods and reads attributes of an aggregate, wherever its life is just now.

    What is callable in the class is a method, static and class methods included, and calling it
    returns a future. What the class has marked as traversable is gone into. Any other name is read
    from the aggregate, which is activated for it, even by `hasattr`: that returns a future, which
    fails with `AttributeError` if there is no such attribute. Methods and traversable attributes
    that only the instance has need `registry.get(key).proxy()`. Setting an attribute waits until it
    is set, as in Pykka.

    Names that begin with an underscore are private, and an `AttributeError`.
    """

    __slots__ = ("_owner", "_path", "actor_ref")

    actor_ref: AggregateRef[A]
    _path: tuple[str, ...]
    _owner: object
    """What is at the end of the path: the class, at the root; `None` if there is none."""

    def __init__(self, ref: AggregateRef[A], path: tuple[str, ...], owner: object) -> None:
        object.__setattr__(self, "actor_ref", ref)
        object.__setattr__(self, "_path", path)
        object.__setattr__(self, "_owner", owner)

    @classmethod
    def to(cls, ref: AggregateRef[A]) -> AggregateProxy[A]:
        """Return the proxy to an aggregate itself."""
        blueprint = ref._table.blueprint
        return cls(ref, (), None if blueprint is None else blueprint.aggregate_class)

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
        found = self._find(name)
        if callable(found):
            return AggregateMethod(self.actor_ref, path)
        if (
            getattr(found, "_pykka_traversable", False) is True
            or getattr(found, "pykka_traversable", False) is True
        ):
            return AggregateProxy(self.actor_ref, path, found)
        value = _Value()
        value.read = (self, name)
        return self.actor_ref._ask(messages.ProxyGetAttr(attr_path=path), value)

    def _find(self, name: str) -> Any:
        """Return what is known by this name without asking the aggregate, or `None`."""
        owner = self._owner
        if isinstance(owner, type):
            return class_attribute(cast("type[Any]", owner), name)
        return getattr(owner, name, None)

    def _no_method(self, name: str) -> TypeError:
        """Return what somebody gets who has taken a name for a method."""
        owner = self._owner
        if owner is None:
            msg = "this registry has no aggregate class, so a proxy of its refs knows no method. "
        else:
            root = owner if isinstance(owner, type) else type(owner)
            msg = f"{root.__name__} has no method {name!r}"
            methods = [known for known in dir(self) if callable(self._find(known))]
            close = difflib.get_close_matches(name, methods, 1)
            msg += f"; did you mean {close[0]!r}? " if close else ". "
        return TypeError(f"{msg}What only an instance has needs registry.get(key).proxy()")

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the aggregate, and wait until that is done."""
        if name.startswith("_"):
            msg = f"{name!r} is private: a proxy shows public names only"
            raise AttributeError(msg)
        self.actor_ref.ask(messages.ProxySetAttr(attr_path=(*self._path, name), value=value))


class _Value(Future[Any]):
    """The value of a name that is no method of the class; who calls it has taken it for one."""

    read: tuple[AggregateProxy[Any], str] | None = None
    """From which proxy, by which name; `None` for what Pykka derives from it by `map` and so on."""

    def __call__(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        if self.read is None:
            msg = "a future is not callable; get() its value first"
            raise TypeError(msg)
        proxy, name = self.read
        raise proxy._no_method(name)

    defer = __call__


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
