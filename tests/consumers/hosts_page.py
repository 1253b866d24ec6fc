"""The Python of docs/hosts.md, so that what users copy is what is tested."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hosts.md"


def recipe(heading):
    """The Python block below a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return block
