"""The model and the code are kept together: each says of the other what is there."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re

import pytest

import pykka_registry
from formal.check import (
    DEEP,
    GUARDS,
    MODEL,
    ONE_KEY,
    POSSIBILITIES,
    SPARE,
    WORLDS,
    Check,
    definitions,
)

TEXT = MODEL.read_text("utf-8")
CHECKS = [*WORLDS, *POSSIBILITIES, *GUARDS, *SPARE, *DEEP]


def the_names_in_comments() -> set[tuple[str, str]]:
    """Return what looks like `Table._deliver`."""
    names: set[tuple[str, str]] = set()
    for comment in re.findall(r"/\*.*?\*/", TEXT, re.DOTALL):
        names.update(re.findall(r"\b([A-Z]\w*)\.(\w+)", comment))
    return names


def the_classes() -> dict[str, type]:
    modules = [
        importlib.import_module(f"{pykka_registry.__name__}.{module.name}")
        for module in pkgutil.iter_modules(pykka_registry.__path__)
    ]
    return {
        name: cls
        for module in modules
        for name, cls in inspect.getmembers(module, inspect.isclass)
        if cls.__module__ == module.__name__
    }


def has(cls: type, name: str) -> bool:
    """Tell whether the class has a method of this name, or sets such a field."""
    bases = [base for base in cls.__mro__ if base.__module__.startswith(pykka_registry.__name__)]
    is_set = re.compile(rf"\bself\.{name}(: [^=\n]+)? = ")
    return any(name in vars(base) or is_set.search(inspect.getsource(base)) for base in bases)


def test_what_the_model_names_is_in_the_code() -> None:
    classes = the_classes()
    names = the_names_in_comments()
    assert len(names) >= 45
    assert {cls for cls, _ in names} >= {"Admission", "Future", "Inbox", "Life", "Table"}
    missing = [
        f"{cls}.{name}"
        for cls, name in sorted(names)
        if cls not in classes or not has(classes[cls], name)
    ]
    assert missing == [], "the code has changed, and formal/delivery.pml must change with it"


@pytest.mark.parametrize(
    ("cls", "name", "is_there"),
    [
        ("Table", "_deliver", True),
        ("Table", "_lock", True),
        ("Table", "active", True),  # its base class sets it
        ("Entry", "queue", True),
        ("Inbox", "accept", True),
        ("Table", "_requeue", False),
        ("Inbox", "_loc", False),
    ],
)
def test_a_name_that_is_not_there_is_missed(cls: str, name: str, is_there: bool) -> None:
    assert has(the_classes()[cls], name) is is_there


def test_what_the_checks_define_is_in_the_model() -> None:
    assert len(CHECKS) >= 60
    for check in CHECKS:
        assert len(definitions(check)) == 5 + len(check.settings.split())
    with pytest.raises(LookupError, match=r"delivery\.pml knows no NO_SUCH_GUARD"):
        definitions(Check("nothing", ONE_KEY, "NO_SUCH_GUARD"))


def test_each_guard_and_each_possibility_of_the_model_is_checked() -> None:
    settings = {setting for check in CHECKS for setting in check.settings.split()}
    guards = set(re.findall(r"\bNO_[A-Z_]+\b", TEXT))
    listed = TEXT.partition("What must be possible.")[2].partition("#ifdef REACH")[0]
    possibilities = re.findall(r"^#define (\w+) \d+ ", listed, re.MULTILINE)
    assert len(guards) >= 18
    assert len(possibilities) >= 18
    assert guards | {f"REACH={name}" for name in possibilities} <= settings
