"""One live actor per key, for Pykka."""

from pykka_registry._aggregate import AggregateMixin
from pykka_registry._events import EndReason, Registered, Terminated
from pykka_registry._exceptions import (
    KeyAlreadyRegistered,
    Quarantined,
    RegistryError,
    RegistryStopped,
    Undeliverable,
    WaitCycle,
)
from pykka_registry._registry import AggregateRegistry
from pykka_registry._registry_ref import RegistryRef

__all__ = [
    "AggregateMixin",
    "AggregateRegistry",
    "EndReason",
    "KeyAlreadyRegistered",
    "Quarantined",
    "Registered",
    "RegistryError",
    "RegistryRef",
    "RegistryStopped",
    "Terminated",
    "Undeliverable",
    "WaitCycle",
]
