"""Use the installed package as a user does, away from the checkout; `make wheel` runs it."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import sys
from pathlib import Path

import pykka

import pykka_registry
from pykka_registry import AggregateMixin, AggregateRegistry


class Account(AggregateMixin, pykka.ThreadingActor):
    """Counts money."""

    def on_start(self) -> None:
        """Begin with nothing."""
        self.balance = 0

    def deposit(self, amount: int) -> int:
        """Add to the balance."""
        self.balance += amount
        return self.balance


checkout = Path(__file__).parent.parent
installed = Path(pykka_registry.__file__)
assert checkout / "pykka_registry" != installed.parent, "this is the checkout, not the wheel"
assert importlib.resources.files(pykka_registry).joinpath("py.typed").is_file()
requires = importlib.metadata.requires("pykka-registry") or []
assert [r for r in requires if "extra ==" not in r] == ["pykka<5,>=4.5"], requires
shipped = importlib.metadata.files("pykka-registry") or []
assert {file.parts[0].partition("-")[0] for file in shipped} == {"pykka_registry"}, shipped
with AggregateRegistry.start(Account) as accounts:
    assert accounts.get_or_start("acc-1").proxy().deposit(10).get() == 10
    assert accounts.get_or_start("acc-1").proxy().deposit(5).get() == 15
sys.stdout.write(f"the wheel of {importlib.metadata.version('pykka-registry')} works\n")
