"""Which images were being processed when a run died."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Final

from mediar_infer.folder.parts import RunPart

AT_WORK_NAME: Final = ".at-work.jsonl"


class AtWork:
    """Notes in a file which images are at work, so that a killed process leaves their names.

    One line is added as an image is begun and one as it ends; the file goes at the end of a run.
    Notes that cannot be written are skipped: results and ledger report a full disk.

    Args:
        folder: folder of the ledger; None keeps no notes.
        part: the part of a run that this process does, with notes of its own.
    """

    def __init__(self, folder: Path | None, part: RunPart | None = None) -> None:
        name = part.rename(AT_WORK_NAME) if part else AT_WORK_NAME
        self._path = None if folder is None else folder / name
        self.suspects = self._read()
        """Names of images that earlier runs were at when they died."""
        self.close()
        for name in self.suspects:  # of a run that dies before their turn, too
            self.begin(name)

    def _read(self) -> frozenset[str]:
        names: dict[str, None] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            for line in self._path.read_text(encoding="ascii").splitlines() if self._path else ():
                event = json.loads(line)
                if event["begun"]:
                    names[event["file"]] = None
                else:
                    names.pop(event["file"], None)
        return frozenset(names)

    def begin(self, name: str) -> None:
        """Note that an image is being opened or processed from now on."""
        self._note(name, is_begun=True)

    def end(self, name: str) -> None:
        """Note that an image is finished, done or failed."""
        self._note(name, is_begun=False)

    def _note(self, name: str, *, is_begun: bool) -> None:
        if self._path is None:
            return
        line = json.dumps({"file": name, "begun": is_begun})
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="ascii") as file:
                file.write(f"{line}\n")

    def close(self) -> None:
        """Remove the notes: this process did not die."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()
