"""One live actor per key, for Pykka."""

from pykka_registry._aggregate import AggregateMixin
from pykka_registry._events import (
    DeadLetter,
    DeadLetterReason,
    EndReason,
    Registered,
    Stats,
    Terminated,
)
from pykka_registry._exceptions import (
    KeyAlreadyRegistered,
    Overloaded,
    Quarantined,
    RegistryError,
    RegistryStopped,
    Undeliverable,
    WaitCycle,
)
from pykka_registry._pooled import PooledActor
from pykka_registry._proxy import AggregateProxy
from pykka_registry._ref import AggregateRef
from pykka_registry._registry import AggregateRegistry
from pykka_registry._registry_ref import RegistryRef

__all__ = [
    "AggregateMixin",
    "AggregateProxy",
    "AggregateRef",
    "AggregateRegistry",
    "DeadLetter",
    "DeadLetterReason",
    "EndReason",
    "KeyAlreadyRegistered",
    "Overloaded",
    "PooledActor",
    "Quarantined",
    "Registered",
    "RegistryError",
    "RegistryRef",
    "RegistryStopped",
    "Stats",
    "Terminated",
    "Undeliverable",
    "WaitCycle",
]
