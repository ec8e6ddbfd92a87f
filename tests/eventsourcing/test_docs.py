"""The code in the documentation runs as it stands there, from its first block to its last."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.mark.parametrize("page", ["group-commit.md", "eventsourcing.md"])
def test_the_code_on_the_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / page).read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 5
    module = ModuleType("docs")  # in which refusals are found by their names
    monkeypatch.setitem(sys.modules, "docs", module)
    for block in blocks:
        exec(compile(block, page, "exec"), vars(module))  # noqa: S102  # our own code
    assert list(tmp_path.iterdir()) == []  # that would be in its way the second time
