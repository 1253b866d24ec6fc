"""Result files that exist only when they are complete."""

import errno
import fcntl
import hashlib
import logging
import os
import re
import tempfile
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import IO

from mediar_infer.errors import OutputError

logger = logging.getLogger(__name__)

_PART = re.compile(r"\.(?P<name>.+)\.\d+\.part")
_LONG_NAME_BYTES = 200
_KEPT_CHARACTERS = 40
"""Of a long name; each may take four bytes."""
_USUAL_LONGEST_NAME = 255
_FULL = "expected free space; free some space or choose another output folder"
_FORBIDDEN = "expected a writable folder; allow writing to it or choose another output folder"
_REFUSED = (
    "expected a name that this file system accepts; rename the input, or choose an output folder on"
    " another file system"
)
_IN_THE_WAY = "expected a folder and a free place in it; choose another output folder"
_BROKEN = "expected a working disk or network share; check it, or choose another output folder"
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _FORBIDDEN),
    **dict.fromkeys((errno.EINVAL, errno.EILSEQ), _REFUSED),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP), _IN_THE_WAY),
    **dict.fromkeys((errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE), _BROKEN),
    errno.EFBIG: "expected a smaller file or a larger limit; raise 'ulimit -f', or choose an output"
    " folder on a file system with larger files",
    errno.EMFILE: "expected fewer open files; raise 'ulimit -n'",
    errno.ENFILE: "expected fewer open files on this machine; close some programs",
}
"""What to do about an error of the system; a name that is too long is measured in addition."""


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a hidden file beside ``path`` that takes its place when the block ends well.

    The file is locked while it is written, then synced and renamed; on any exception it is removed.

    Args:
        path: file to make or replace; its folder is made if need be.

    Yields:
        The empty file, open for reading and writing.

    Raises:
        OSError: if the folder cannot be written or is full; no partial file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        # A name that the file system refuses is refused now, not after hours of work.
        path.lstat()
    part = path.with_name(f".{_short(path.name)}.{os.getpid()}.part")
    try:
        with open_locked(part) as file:
            try:
                file.truncate()
                yield file
                file.flush()
                os.fsync(file.fileno())
                part.replace(path)
            except BaseException:
                with suppress(OSError):  # the folder was locked meanwhile
                    part.unlink()
                raise
    except BaseException:
        # A signal may come between the making of the file and the block above.
        with suppress(OutputError):
            _remove_if_abandoned(part)
        raise


@contextmanager
def marking(folder: Path) -> Iterator[Path]:
    """Hold a hidden, empty file in a folder, by which others can tell that they see the same one.

    Args:
        folder: made if need be.

    Yields:
        The file; it is removed at the end, or by the next run if this process is killed.

    Raises:
        OutputError: if the folder cannot be written.
    """
    mark = folder / f".{uuid.uuid4().hex}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open_locked(mark)
    except OSError as error:
        raise to_output_error(mark, error) from error
    with file:
        try:
            yield mark
        finally:
            with suppress(OSError):  # the folder was locked meanwhile
                mark.unlink()


@contextmanager
def writing_output(path: Path) -> Iterator[IO[bytes]]:
    """Open a result like ``replacing``; what the system refuses becomes an ``OutputError``.

    Args:
        path: file to make or replace; its folder is made if need be.

    Yields:
        The empty file, open for reading and writing.

    Raises:
        OutputError: if the folder cannot be written or is full; no partial file is left.
    """
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise to_output_error(path, error) from error


class Spool:
    """Pieces of a result that is written later, in a nameless file beside it.

    Nothing of it is left when it is closed or the process dies.

    Args:
        path: the result.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._ends = [0]

    def put(self, data: bytes) -> int:
        """Keep a piece.

        Returns:
            Its number, from 0.

        Raises:
            OutputError: if the folder cannot be written or is full.
        """
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._path.parent)  # noqa: SIM115
            self._file.seek(self._ends[-1])
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise to_output_error(self._path, error) from error
        self._ends.append(self._ends[-1] + len(data))
        return len(self._ends) - 2

    def get(self, number: int) -> bytes:
        """A piece that was kept.

        Raises:
            OutputError: if it cannot be read.
        """
        first, last = self._ends[number : number + 2]
        try:
            if self._file is None:
                return b""
            self._file.seek(first)
            return self._file.read(last - first)
        except OSError as error:
            raise to_output_error(self._path, error) from error

    def close(self) -> None:
        """Drop all pieces."""
        if self._file is not None:
            self._file.close()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file at once.

    Args:
        path: file to make or replace; its folder is made if need be.
        data: the whole content.

    Raises:
        OutputError: if the folder cannot be written or is full; no partial file is left.
    """
    with writing_output(path) as file:
        file.write(data)


def remove_result(path: Path) -> None:
    """Remove a file of an earlier run; nothing happens if there is none.

    Raises:
        OutputError: if it cannot be removed, or cannot be looked for.
    """
    try:
        path.unlink()
    except OSError as error:
        # A read-only file system, or a name that is too long, is an error even without a file.
        if not os.path.lexists(path):
            return
        raise OutputError(
            f"{path}: cannot be removed ({error.strerror or error}); expected a writable folder;"
            " allow removing it or choose another output folder"
        ) from error


def remove_stale_parts(folder: Path, names: Collection[str] | None = None) -> list[Path]:
    """Remove the unfinished files that a killed process left behind.

    Files that a living process is writing are locked and stay, also when it runs in another
    container.

    Args:
        folder: folder of results, without its sub-folders; need not exist.
        names: only those of files of these names: others may belong to processes elsewhere, whose
            locks do not show here. None: all.

    Returns:
        The removed files.

    Raises:
        OutputError: if one cannot be removed.
    """
    removed = []
    own = None if names is None else {_short(name) for name in names}
    for part in sorted(folder.glob(".*.part")):
        match = _PART.fullmatch(part.name)
        is_own = match is not None and (own is None or match["name"] in own)
        if is_own and _remove_if_abandoned(part):
            logger.info("%s: removed, left by an interrupted run", part)
            removed.append(part)
    return removed


def find_indistinct_names(folder: Path, groups: Mapping[str, Sequence[PurePath]]) -> list[str]:
    """Find out which names the disk of a folder takes for each other.

    Args:
        folder: made if need be.
        groups: relative paths that differ in nothing but case or the composition of accents, by
            what is the same in all.

    Returns:
        Groups of which two or more paths are one file; none if the folder cannot be written.
    """
    indistinct = []
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".names-") as scratch:
            for name, paths in groups.items():
                try:
                    for path in paths:
                        place = Path(scratch, path)
                        place.parent.mkdir(parents=True, exist_ok=True)
                        place.touch(exist_ok=False)
                except FileExistsError:
                    indistinct.append(name)
    return indistinct


def open_locked(path: Path, *, waits: bool = True) -> IO[bytes]:
    """Open or make a file under a lock that ends with the process, however that dies.

    Args:
        path: the file; its content is kept.
        waits: whether to wait while another process has it.

    Raises:
        BlockingIOError: if another process has it, and this one does not wait.
        OSError: if it cannot be opened, or is a link.
    """
    while True:
        # Mode "w" would empty the file of a writer that has the lock.
        file = open(path, "r+b", opener=_make_or_open)  # noqa: SIM115 (pathlib has no opener)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            except BlockingIOError:
                raise
            except OSError:
                pass  # some network file systems have no locks
            if _is_still_there(path, file):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def refuse_link_as_root(path: Path) -> None:
    """Refuse a link in an output folder where following it has the rights of root.

    Raises:
        OutputError: if the process is root's and the path is a link.
    """
    if os.geteuid() == 0 and path.is_symlink():
        raise OutputError(
            f"{path}: found a link, expected a file or folder: as root, links in an output folder"
            " are not followed; remove it, or run as another user"
        )


def to_output_error(path: Path, error: OSError) -> OutputError:
    """Say which file could not be written, why, and what to do.

    Args:
        path: the file.
        error: what the system reported; each kind has its own remedy.
    """
    remedy = _REMEDIES.get(
        error.errno or 0, "expected a writable folder with free space; choose another output folder"
    )
    if error.errno == errno.ENAMETOOLONG:
        n_bytes = len(os.fsencode(path.name))
        remedy = (
            f"found a name of {n_bytes} bytes, expected at most {_longest_name(path.parent)};"
            " rename the input, or choose an output folder with a shorter path"
        )
    return OutputError(f"{path}: cannot be written ({error.strerror or error}); {remedy}")


def _longest_name(folder: Path) -> int:
    """Bytes that a file name may have in a folder."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return _USUAL_LONGEST_NAME


def _short(name: str) -> str:
    """The temporary name is longer than the final one; keep it below the 255-byte limit.

    Names with a common beginning stay distinct.
    """
    data = os.fsencode(name)
    if len(data) <= _LONG_NAME_BYTES:
        return name
    return f"{name[:_KEPT_CHARACTERS]}-{hashlib.blake2b(data, digest_size=8).hexdigest()}"


def _make_or_open(path: str, flags: int) -> int:
    """Open a file that may not exist, but follow no link that somebody put in its place."""
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o666)


def _is_still_there(part: Path, file: IO[bytes]) -> bool:
    """Whether nobody removed or renamed the file between its opening and its locking."""
    try:
        return os.path.samestat(part.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _remove_if_abandoned(part: Path) -> bool:
    try:
        file = part.open("rb")
    except OSError:  # gone meanwhile, or of another user
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # locked by its writer, or no locks here
            return False
        try:
            # still under the lock: a writer that opens the name now will see that it is gone
            part.unlink(missing_ok=True)
        except OSError as error:
            raise to_output_error(part, error) from error
    return True
