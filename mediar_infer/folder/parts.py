"""Parts of a run, such as the jobs of an array, that share inputs and output folder."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final, TypeVar

from mediar_infer.errors import UsageError

Image = TypeVar("Image")

_FORM: Final = re.compile(r"(?P<number>[0-9]{1,9})/(?P<of>[0-9]{1,9})")
"""Longer numbers would not fit the names of a part's files."""
_SHOWN: Final = 40
"""Characters of a wrong value that its error repeats."""


@dataclass(frozen=True, slots=True)
class RunPart:
    """One of several runs that share the images of one selection."""

    number: int
    """From 1 on."""
    of: int
    """How many there are."""

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise UsageError(
                f"found --part {self.number}/{self.of}, expected a number from 1 to {self.of};"
                f" count jobs from 1, such as with --array=1-{self.of}"
            )

    @classmethod
    def parse(cls, text: str) -> "RunPart":
        """Read ``I/N``.

        Raises:
            UsageError: if it is nothing of the kind.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
            raise UsageError(
                f"found --part {shown}, expected I/N, such as 3/10, numbers of up to 9 digits"
            )
        return cls(int(match["number"]), int(match["of"]))

    def choose(self, images: Sequence[Image]) -> tuple[Image, ...]:
        """This part's images: as many as any other part's, give or take one."""
        return tuple(images[self.number - 1 :: self.of])

    def rename(self, name: str) -> str:
        """Name of this part's own file: ``ledger.jsonl`` becomes ``ledger.3of10.jsonl``."""
        path = PurePath(name)
        return path.with_suffix(f".{self.number}of{self.of}{path.suffix}").name

    def restore(self, name: str) -> str:
        """Name that ``rename`` was given."""
        path = PurePath(name)
        return path.stem.removesuffix(f".{self.number}of{self.of}") + path.suffix

    def describe(
        self,
        names: Sequence[str],
        *,
        is_finished: bool,
        ledger_start: int,
        table: str | None = None,
    ) -> dict[str, Any]:
        """Describe a part in its summary, so that it can be compared with the others.

        Args:
            names: images of all parts, as this part found them.
            is_finished: whether the part has come to its end.
            ledger_start: byte of the part's ledger at which this attempt at it begins.
            table: path of the part's table relative to the ledger, if it writes one.
        """
        digest = hashlib.sha256(b"\0".join(os.fsencode(name) for name in names))
        return {
            "part": {
                "number": self.number,
                "of": self.of,
                "is_finished": is_finished,
                "ledger_start": ledger_start,
                "images": list(self.choose(names)),
                "images_of_all_parts": len(names),
                "sha256_of_all_names": digest.hexdigest(),
                **({} if table is None else {"table": table}),
            }
        }
