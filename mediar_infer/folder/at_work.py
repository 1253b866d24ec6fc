"""Which images were being processed when a run died."""

import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from mediar_infer.folder.parts import RunPart
from mediar_infer.output_files import open_locked

logger = logging.getLogger(__name__)

AT_WORK_NAME: Final = ".at-work.jsonl"


class AtWork:
    """Notes in a file which images are at work, so that a killed process leaves their names.

    One line is added as an image is begun and one as it ends; the file goes at the end of a run,
    which has it locked until then. Notes that cannot be written are skipped: results and ledger
    report a full disk.

    Args:
        folder: folder of the ledger; None keeps no notes.
        part: the part of a run that this process does, with notes of its own.
    """

    def __init__(self, folder: Path | None, part: RunPart | None = None) -> None:
        name = part.rename(AT_WORK_NAME) if part else AT_WORK_NAME
        self._path = None if folder is None else folder / name
        self._file: IO[bytes] | None = None
        if self._path is not None and os.path.lexists(self._path):
            self._open(self._path)
        self.suspects = self._take()
        """Names of images that earlier runs were at when they died."""
        for name in self.suspects:  # of a run that dies before their turn, too
            self.begin(name)

    def _open(self, path: Path) -> None:
        """Lock the file for this run; if another run has it, this one keeps no notes."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_locked(path, waits=False)
        except BlockingIOError:
            self._path = None
            logger.warning(
                "%s: another run is at work in this folder; images that both are given are"
                " segmented twice; wait for its end, or divide the images with --part",
                path.parent,
            )
        except OSError:
            pass  # tried again with the next note

    def _take(self) -> frozenset[str]:
        """Read the notes of an earlier run, and empty the file."""
        names: dict[str, None] = {}
        if self._file is None:
            return frozenset()
        with suppress(OSError, ValueError, KeyError, TypeError):
            for line in self._file.read().splitlines():
                event = json.loads(line)
                if event["begun"]:
                    names[event["file"]] = None
                else:
                    names.pop(event["file"], None)
        with suppress(OSError):
            self._file.seek(0)
            self._file.truncate()
        return frozenset(names)

    def begin(self, name: str) -> None:
        """Note that an image is being opened or processed from now on."""
        self._note(name, is_begun=True)

    def end(self, name: str) -> None:
        """Note that an image is finished, done or failed."""
        self._note(name, is_begun=False)

    def _note(self, name: str, *, is_begun: bool) -> None:
        if self._file is None and self._path is not None:
            self._open(self._path)
        if self._file is None:
            return
        line = json.dumps({"file": name, "begun": is_begun})
        with suppress(OSError):
            self._file.write(f"{line}\n".encode("ascii"))
            self._file.flush()

    def close(self) -> None:
        """Remove the notes: this process did not die."""
        if self._file is None or self._path is None:
            return
        with suppress(OSError):
            self._path.unlink()  # still under the lock: nobody else's
        with suppress(OSError):
            self._file.close()
        self._file = None
