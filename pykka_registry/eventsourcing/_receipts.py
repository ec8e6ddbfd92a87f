"""Receipts: the answer to a command that has an id, kept as an event of a stream of its own.

The stream's id follows from the command's id, and its only event is stored in the same save as what
the command has decided. So the store, which takes each version of a stream once, is what keeps a
command from being done twice: across crashes, processes and years. Nothing is kept in memory.

A command is taken for a new one, and looked for once the store refuses it. But where one has been
done before the next may have been, too, as when a file is imported again. So as long as receipts
are found they are looked for first, which is quicker than to load an aggregate and decide in vain.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from eventsourcing.domain import HasOriginatorIDVersion, TAggregateID, datetime_now_with_tzinfo
from eventsourcing.persistence import DecimalAsStr, UUIDAsHex
from eventsourcing.utils import get_topic, resolve_topic

from pykka_registry.eventsourcing._command import Command, Decision
from pykka_registry.eventsourcing._exceptions import CommandIdReused
from pykka_registry.eventsourcing._kept import (
    check_can_be_raised_again,
    check_has_topic,
    is_same,
    made_again,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventsourcing.application import Application

__all__ = ["Receipt", "ReceiptBase", "Receipts", "StrReceipt", "receipt_id"]

_NAMESPACE = UUID("3d9e7f0e-6a0b-5b0c-9c59-5a0f7c1f9b44")
_VERSION = 1

_BITS = 64
"""Any transcoder keeps whole numbers that have fewer."""
_EXACTLY = frozenset({DecimalAsStr, UUIDAsHex})
"""Transcodings that keep a value as it is."""

_PLAIN = frozenset(
    {type(None), bool, int, float, str, Decimal, UUID, date, datetime, time, timedelta}
)
"""Types of arguments in which nothing could have another order."""


def receipt_id(command_id: UUID | str) -> UUID:
    """Return the id of the stream that has the receipt of a command."""
    # What `uuid5` does, in half the time.
    digest = hashlib.sha1(_NAMESPACE.bytes + str(command_id).encode(), usedforsecurity=False)
    return UUID(bytes=digest.digest()[:16], version=5)


@dataclass(frozen=True)
class ReceiptBase(HasOriginatorIDVersion[TAggregateID]):
    """What a command was answered, the first time. It shows up in the notification log."""

    originator_id: TAggregateID
    originator_version: int
    timestamp: datetime
    command_id: str
    command: str
    """The method's name."""
    fingerprint: str
    """Tells another command from the same one, sent again."""
    aggregate_id: str
    aggregate_version: int
    """The version that the aggregate had by it."""
    result: Any
    refusal: str | None
    """The topic of the class of the domain's error that it was refused with, if it was."""
    arguments: list[Any]
    """The error's arguments."""
    attributes: dict[str, Any]
    """The error's attributes."""


class Receipt(ReceiptBase[UUID]):
    """A receipt in an application whose ids are of type `UUID`."""

    TOPIC: ClassVar[str] = "pykka_registry.eventsourcing:Receipt"
    originator_id_type = UUID


class StrReceipt(ReceiptBase[str]):
    """A receipt in an application whose ids are of type `str`."""

    TOPIC: ClassVar[str] = "pykka_registry.eventsourcing:StrReceipt"
    originator_id_type = str


class Receipts:
    """Writes and finds the receipts of one application."""

    def __init__(self, app: Application[Any], id_type: type[UUID | str]) -> None:
        self._events = app.events
        self._has_uuids = issubclass(id_type, UUID)
        self.was_found = False
        """Whether the last that was looked for was there, so that the next may be, too. A hint,
        which any actor's thread writes, under no lock."""

    def find(self, command_id: UUID | str | None) -> ReceiptBase[Any] | None:
        """Return the receipt of a command, if it has one."""
        if command_id is None:
            return None
        stream = self._stream(command_id)
        receipt: Any = next(iter(self._events.get(stream, limit=1)), None)
        self.was_found = receipt is not None
        return receipt  # type: ignore[no-any-return]

    def of_answer(
        self, command: Command, aggregate_id: UUID | str, decision: Decision[Any]
    ) -> ReceiptBase[Any]:
        """Write the receipt for a command that is done.

        Raises:
            TypeError: if what it has returned could not be given again as it is.
        """
        result = decision.result
        self._try(result, f"{command.name} has returned")
        return self._write(command, aggregate_id, decision.version, result=result)

    def _try(self, value: object, what: str) -> None:
        """See that a receipt would give a value again as it is.

        Raises:
            TypeError: if it would not.
        """
        if self._is_kept_exactly(value):
            return
        transcoder = self._events.mapper.transcoder
        cause: Exception | None = None
        try:
            kept = transcoder.decode(transcoder.encode(value))
            if is_same(kept, value):
                return
            otherwise = f"would give again as {shown(kept)}"
            if type(kept) is not type(value):
                otherwise += f", of type {type(kept).__name__}"
        except Exception as error:  # noqa: BLE001  # of the transcoder, or of types of the user's
            cause, otherwise = error, "cannot keep"
        message = (
            f"{what} {shown(value)}, which a receipt {otherwise}: use something that the "
            "application's transcoder keeps as it is, or register a transcoding for it"
        )
        raise TypeError(message) from cause

    def _is_kept_exactly(self, value: object) -> bool:
        """Tell whether a value needs no trial, which takes as long as to write the receipt."""
        if value is None or value is True or value is False:
            return True
        if type(value) is int:
            return value.bit_length() < _BITS
        if type(value) is str:
            return value.isascii()
        transcoder: Any = self._events.mapper.transcoder
        return type(getattr(transcoder, "types", {}).get(type(value))) in _EXACTLY

    def of_refusal(
        self, command: Command, aggregate_id: UUID | str, version: int, error: Exception
    ) -> ReceiptBase[Any]:
        """Write the receipt for a command that the aggregate has refused.

        Raises:
            TypeError: if it could not be refused again as it is.
        """
        try:
            self._try_refusal(command, error)
        except TypeError as reason:
            raise TypeError(*reason.args) from error
        return self._write(
            command,
            aggregate_id,
            version,
            refusal=(get_topic(type(error)), list(error.args), vars(error)),
        )

    def _try_refusal(self, command: Command, error: Exception) -> None:
        cls = type(error)
        check_has_topic(cls)
        what = f"{command.name} has raised {cls.__qualname__} with"
        for number, argument in enumerate(error.args, 1):
            self._try(argument, f"{what} argument {number},")
        for name, value in vars(error).items():
            self._try(value, f"{what} the attribute {name},")
        check_can_be_raised_again(error)

    def repeat(
        self, receipt: ReceiptBase[Any], command: Command, aggregate_id: UUID | str
    ) -> Decision[Any]:
        """Answer a command as it was answered the first time.

        Raises:
            CommandIdReused: if it was another command.
            Exception: what it was refused with.
        """
        fingerprint = self._fingerprint(command, aggregate_id)
        if (receipt.command, receipt.fingerprint) != (command.name, fingerprint):
            raise CommandIdReused(receipt.command_id, receipt.command)
        if receipt.refusal is None:
            return Decision(receipt.result, receipt.aggregate_version, is_repeated=True)
        cls: type[Exception] = resolve_topic(receipt.refusal)
        raise made_again(cls, receipt.arguments, receipt.attributes)

    def _write(
        self,
        command: Command,
        aggregate_id: UUID | str,
        version: int,
        *,
        result: Any = None,
        refusal: tuple[str, list[Any], dict[str, Any]] | None = None,
    ) -> ReceiptBase[Any]:
        command_id = command.terms.command_id
        assert command_id is not None
        cls: type[ReceiptBase[Any]] = Receipt if self._has_uuids else StrReceipt
        return cls(
            self._stream(command_id),
            _VERSION,
            datetime_now_with_tzinfo(),
            str(command_id),
            command.name,
            self._fingerprint(command, aggregate_id),
            str(aggregate_id),
            version,
            result,
            *(refusal or (None, [], {})),
        )

    def _stream(self, command_id: UUID | str) -> Any:
        stream = receipt_id(command_id)
        return stream if self._has_uuids else str(stream)

    def _fingerprint(self, command: Command, aggregate_id: UUID | str) -> str:
        whose = None if command.makes_id else str(aggregate_id)
        args, kwargs = command.arguments
        encode = self._events.mapper.transcoder.encode
        named = sorted(kwargs.items())
        what = None
        if _PLAIN.issuperset(map(type, (*args, *kwargs.values()))):
            with contextlib.suppress(Exception):
                what = encode([whose, args, named])  # all at once, which is quicker
        if what is None:
            items = [*enumerate(args), *named]
            what = repr(
                [whose, *((name, _encoded(value, encode)) for name, value in items)]
            ).encode()
        return hashlib.sha256(what).hexdigest()


def _encoded(value: object, encode: Callable[[object], bytes]) -> bytes:
    """Return what stands for a value in a fingerprint, which is the same for equal ones."""
    try:
        what = encode(value)
    except Exception:  # noqa: BLE001  # an argument that events need not carry
        cls = type(value)
        return f"{cls.__module__}.{cls.__qualname__}".encode(errors="replace")
    if b"{" in what and type(value) not in _PLAIN:
        # Two dicts are equal whatever the order of their keys.
        with contextlib.suppress(ValueError, RecursionError):  # no JSON, or none for Python
            what = json.dumps(json.loads(what), sort_keys=True).encode()
    return what
