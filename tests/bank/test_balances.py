"""The file of balances."""

from __future__ import annotations

import os
import threading
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from examples.bank.balances import check_balances_path, sort_key, write_balances
from examples.bank.problems import Failed, Unusable
from tests.bank.support import access_by_mode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_balances_are_sorted_and_written_with_all_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    amounts = {"10": "1E+3", "9": "-0.10", 'a"b': "1", "2": "0.0000001", "a,b": "9" * 40}
    write_balances(str(path), {key: Decimal(amount) for key, amount in amounts.items()})
    assert path.read_bytes() == (
        b"account_id,balance\r\n2,0.0000001\r\n9,-0.10\r\n10,1000\r\n"
        b'"a""b",1\r\n"a,b",' + b"9" * 40 + b"\r\n"
    )


def test_numbers_come_first_and_by_their_value() -> None:
    ids = ["10", "9", "009", "b", "", "B", "-1", "1.5", "²", "٣"]
    assert sorted(ids, key=sort_key) == ["009", "9", "10", "", "-1", "1.5", "B", "b", "²", "٣"]


def test_the_longest_name_that_a_file_can_have_is_good_enough(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    check_balances_path(str(path))
    write_balances(str(path), {})
    assert list(tmp_path.iterdir()) == [path]


def test_an_old_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    path.write_text("old")
    write_balances(str(path), {})
    assert path.read_bytes() == b"account_id,balance\r\n"
    assert list(tmp_path.iterdir()) == [path]


def test_an_old_file_stays_as_it_was_if_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_is_full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "b.csv"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", disk_is_full)
    with pytest.raises(Failed, match=r"b\.csv: the balances cannot be written: No space left"):
        write_balances(str(path), {})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "b.csv", tmp_path / "link.csv"
    link.symlink_to(path)
    write_balances(str(link), {})
    assert link.is_symlink()
    assert path.read_bytes() == b"account_id,balance\r\n"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_balances(str(pipe), {})
    reader.join()
    assert got == [b"account_id,balance\r\n"]


def _in_no_folder(folder: Path) -> Path:
    return folder / "nowhere" / "b.csv"


def _a_folder(folder: Path) -> Path:
    return folder


def _in_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "b.csv"


def _with_a_long_name(folder: Path) -> Path:
    return folder / ("x" * 300)


def _a_circle(folder: Path) -> Path:
    (folder / "circle").symlink_to("circle")
    return folder / "circle"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (_in_no_folder, "there is no folder"),
        (_a_folder, "is a folder"),
        (_in_a_file, "Not a directory"),
        (_with_a_long_name, "File name too long"),
        (_a_circle, "Too many levels of symbolic links"),
    ],
)
def test_a_path_that_cannot_be_written_is_noticed_before(
    tmp_path: Path, path: Callable[[Path], Path], reason: str
) -> None:
    with pytest.raises(Unusable, match=reason):
        check_balances_path(str(path(tmp_path)))


@pytest.mark.parametrize("read_only", ["b.csv", "."])
def test_a_read_only_file_or_folder_is_noticed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_only: str
) -> None:
    monkeypatch.setattr(os, "access", access_by_mode)
    (tmp_path / "b.csv").touch()
    (tmp_path / read_only).chmod(0o555)
    with pytest.raises(Unusable, match=r"read-only|no file can be made"):
        check_balances_path(str(tmp_path / "b.csv"))
