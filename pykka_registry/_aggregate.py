"""The mixin that makes an actor an aggregate: it has a key, and its registry knows it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import pykka

from pykka_registry import _pooled_life
from pykka_registry._checks import check_key, check_seconds, check_timeout
from pykka_registry._class_checks import (
    check_arguments,
    check_bases,
    check_startable,
    constructor_after,
)
from pykka_registry._entry import Blueprint, Entry, StartRequest
from pykka_registry._future import Future
from pykka_registry._inbox import Inbox
from pykka_registry._life import Life, live
from pykka_registry._pooled import PooledActor
from pykka_registry._table import Table
from pykka_registry._waits import has_room, may_help

if TYPE_CHECKING:
    from collections.abc import Hashable

    from pykka._actor import ActorInbox

    from pykka_registry._actor_ref import IncarnationRef
    from pykka_registry._entry import Incarnation
    from pykka_registry._registry_ref import RegistryRef

__all__ = ["AggregateMixin", "owe"]


class AggregateMixin(pykka.Actor):
    """Makes an actor the aggregate of a key: registered when it starts, unregistered when it ends.

    It goes before the actor class:

        class Account(AggregateMixin, pykka.ThreadingActor):
            def on_start(self) -> None:
                self.balance = 0

    The actor's life is the one that Pykka documents, and no hook needs to call the mixin's. The
    differences:

    * The constructor runs right before `on_start`, and in the same thread: the actor's own, if it
      has one.
    * A message that was sent through a plain ref and is left over when the actor ends fails with
      `Undeliverable`, which is a `pykka.ActorDeadError`, before `on_stop` or `on_failure` runs; a
      left-over `tell` is a dead letter. What was sent through an `AggregateRef` goes to the key's
      next incarnation.
    * `ref.stop()` returns once the key is free.
    * An aggregate that would wait for itself, alone or through others, gets `WaitCycle`.
    * `SystemExit` and its like: in a handler the asker gets `Undeliverable`, and all actors are
      stopped once this one has ended; in `on_start` the start fails; in `on_stop` it is logged.
    * A future is a `pykka.Future`, but no `pykka.ThreadingFuture`.
    * What goes wrong is logged to `pykka_registry`, not to `pykka`.
    """

    _pykka_registry_life: Life
    _pykka_registry_has_base: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a class that could not work."""
        super().__init_subclass__(**kwargs)
        check_bases(cls, AggregateMixin)
        cls._pykka_registry_has_base = constructor_after(cls, AggregateMixin) is not None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Do what Pykka's constructor does, which is done already if a registry constructs this.

        A base's own constructor that comes after this one is run all the same.
        """
        if getattr(self, "_pykka_registry_life", None) is None:  # vars() would make a dict
            self._pykka_registry_life = Life(None, self)
            super().__init__(*args, **kwargs)
        elif self._pykka_registry_has_base:
            super().__init__(*args, **kwargs)

    @classmethod
    def start(
        cls,
        registry: RegistryRef[Any],
        key: Hashable,
        /,
        *args: Any,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> pykka.ActorRef[Self]:
        """Start an aggregate under `key` and wait until its `on_start` has ended.

        Claiming the key is atomic: of many callers one starts the aggregate, and nothing is
        constructed for the others. If the key's last incarnation is still stopping, this waits for
        its end. The constructor and `on_start` run in the aggregate's own thread, or in one of the
        pool's or the calling one if it is pooled.

        Args:
            registry: The registry to start it in. Its class must be this class or a base of it.
            key: Any hashable value.
            *args: For the constructor of this incarnation only. Without any arguments it gets the
                registry's.
            timeout: Seconds to wait at most. It ends the wait, not the activation. A constructor's
                own argument of this name is given by position, or by the registry.
            **kwargs: For the constructor of this incarnation only.

        Returns:
            The ref of this incarnation; `registry.get(key)` finds it.

        Raises:
            KeyAlreadyRegistered: If the key has a live actor, or one that is starting.
            Overloaded: If there was no place for it under `max_live` within the registry's
                `start_timeout`, or `timeout`.
            Quarantined: If the key is quarantined.
            RegistryStopped: If the registry is stopping or has stopped.
            TypeError: If the key cannot be hashed, the class is not the registry's, or the
                constructor does not take the arguments.
            WaitCycle: If the calling aggregate would wait for itself.
            pykka.Timeout: After `timeout` seconds.
            Exception: What the constructor or `on_start` raised. The key is free then.

        """
        table = getattr(registry, "_table", None)
        if not isinstance(table, Table):
            msg = (
                f"{cls.__name__}.start() takes the registry and the key first, not {registry!r}: "
                f"{cls.__name__}.start(registry, key, ...)"
            )
            raise TypeError(msg)
        check_key(key)
        check_timeout(timeout)
        check_startable(cls)
        blueprint = table.blueprint
        if blueprint is not None and not issubclass(cls, blueprint.aggregate_class):
            expected = blueprint.aggregate_class.__name__
            msg = (
                f"registry {table.name!r} starts {expected} and its subclasses, "
                f"which {cls.__name__} is not"
            )
            raise TypeError(msg)
        if blueprint is None or args or kwargs:
            instead = "; start()'s own arguments take the place of all of the registry's"
            hint = "" if blueprint is None else instead
            check_arguments(cls, AggregateMixin, args, kwargs, hint)
            blueprint = Blueprint(cls, args, kwargs)
        elif blueprint.aggregate_class is not cls:
            check_arguments(cls, AggregateMixin, blueprint.args, blueprint.kwargs)
            blueprint = Blueprint(cls, blueprint.args, blueprint.kwargs)
        return table.obtain(StartRequest(key, blueprint, exclusive=True), timeout)

    def passivate(self, after: float | None = 0) -> None:
        """Be passivated once no message has come for `after` seconds.

        That is in place of the registry's `idle`. The latest word holds, for this incarnation. With
        0 it is as soon as nothing waits.
        Each message, through whichever ref, makes the time begin anew. It ends as by a stop: with
        `on_stop`. The next message to its key activates a new incarnation.

        Args:
            after: Seconds; `None` for never.

        Raises:
            TypeError: If `after` is no number of seconds.
            ValueError: If it is less than 0.

        """
        if after is not None:
            check_seconds(after, "after", least=0)
        table = self._pykka_registry_entry("registry").table
        incarnation = self._pykka_registry_life.incarnation
        assert incarnation is not None
        table.passivate(incarnation, after)

    @property
    def key(self) -> Any:
        """The key that names this aggregate. There from the first line of `__init__` on."""
        return self._pykka_registry_entry("key").key

    @key.setter
    def key(self, _key: Any) -> None:
        msg = "an aggregate's key is given by its registry; call your own attribute something else"
        raise AttributeError(msg)

    @property
    def registry(self) -> RegistryRef[Any]:
        """The registry that this aggregate lives in. There from the first line of `__init__` on."""
        registry: Any = self._pykka_registry_entry("registry").table.registry_ref
        return registry  # type: ignore[no-any-return]

    @registry.setter
    def registry(self, _registry: Any) -> None:
        msg = "an aggregate has its registry already; call your own attribute something else"
        raise AttributeError(msg)

    def _pykka_registry_entry(self, name: str) -> Entry:
        incarnation = self._pykka_registry_life.incarnation
        if incarnation is None:
            cls = type(self).__name__
            msg = (
                f"this {cls} has no {name}: it was constructed by hand; "
                f"start it with {cls}.start(registry, key)"
            )
            raise AttributeError(msg)
        return incarnation.entry

    # Pykka's extension points.

    if not TYPE_CHECKING:  # pragma: no branch
        # Pykka's constructor sets the last three, and what it sets is ignored. For a type checker
        # they stay the plain attributes that Pykka declares, else every user's class would have two
        # bases that disagree.

        @property
        def actor_ref(self) -> IncarnationRef:
            """See `pykka.Actor.actor_ref`."""
            return self._pykka_registry_life.ref

        @property
        def actor_urn(self) -> str:
            """See `pykka.Actor.actor_urn`."""
            return self._pykka_registry_life.urn

        @actor_urn.setter
        def actor_urn(self, _urn: str) -> None: ...

        @property
        def actor_inbox(self) -> ActorInbox:
            """See `pykka.Actor.actor_inbox`."""
            return self._pykka_registry_life.inbox

        @actor_inbox.setter
        def actor_inbox(self, _inbox: ActorInbox) -> None: ...

        @property
        def actor_stopped(self) -> threading.Event:
            """See `pykka.Actor.actor_stopped`."""
            return cast("threading.Event", self._pykka_registry_life)

        @actor_stopped.setter
        def actor_stopped(self, _event: threading.Event) -> None: ...

    @staticmethod
    def _create_actor_inbox() -> ActorInbox:
        return cast("ActorInbox", Inbox())

    @staticmethod
    def _create_future() -> pykka.Future[Any]:
        return Future()

    @classmethod
    def _pykka_registry_launch(cls, incarnation: Incarnation) -> None:
        """Have the incarnation constructed, by a thread in which it lives and ends, or a pool."""
        if issubclass(cls, PooledActor):
            _pooled_life.submit(incarnation)
            return
        threading.Thread(
            target=live,
            args=(incarnation,),
            name=f"{cls.__name__}-{incarnation.number}",
            daemon=cast("type[pykka.ThreadingActor]", cls).use_daemon_thread,
        ).start()

    @classmethod
    def _pykka_registry_help(cls, incarnation: Incarnation, until: Future[Any]) -> bool:
        """Take the incarnation's first turn in this thread, if that may be; tells whether so."""
        return (
            issubclass(cls, PooledActor)
            and cls.helping
            and may_help()
            and has_room()
            and _pooled_life.begin(incarnation, until)
        )

    @classmethod
    def _pykka_registry_rescue(cls, incarnation: Incarnation) -> None:
        """Have a spare thread take the incarnation's first turn, if it has none of its own."""
        if issubclass(cls, PooledActor):
            _pooled_life.come_to_the_rescue(incarnation)


def owe(aggregate: AggregateMixin, reply: Future[Any]) -> None:
    """Have whoever waits for a reply that is given after its handler has ended wait for the key."""
    reply.target = aggregate._pykka_registry_entry("key")
