"""Files of a training run: checkpoints, weights, logs; each either complete or unchanged.

One folder per stage, inside the folder of the run::

    RUN/recipe.json              the latest request
    RUN/STAGE/checkpoint.pt      state to resume from; removed when the stage is finished
    RUN/STAGE/log.csv            losses of every step
    RUN/STAGE/validation.csv     scores on held-out or tuning images
    RUN/STAGE/tensorboard/       the same for TensorBoard
    RUN/STAGE/best.safetensors   weights with the best score so far
    RUN/STAGE/weights.safetensors  the result (float32)
    RUN/STAGE/summary.json       written last: the stage is finished
    RUN/NAME.safetensors         blends (float32)
"""

import csv
import io
import json
import logging
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save
from torch import Tensor

from mediar_infer.errors import CheckpointError, DataError, UsageError
from mediar_infer.output_files import (
    remove_result,
    remove_stale_parts,
    to_output_error,
    write_bytes,
)
from mediar_infer.training.stages.recipe import plain_defaults

logger = logging.getLogger(__name__)

LOG_COLUMNS: Final = (
    "step",
    "epoch",
    "loss",
    "cellprob_loss",
    "flow_loss",
    "learning_rate",
    "gradient_norm",
    "seconds",
    "wait_s",
)
"""Columns of ``log.csv``; ``wait_s`` is the part of ``seconds`` spent waiting for the batch."""
VALIDATION_COLUMNS: Final = ("step", "measure", "value", "n_images")
"""Columns of ``validation.csv``."""


@dataclass(frozen=True, slots=True)
class StageFolder:
    """Folder of one stage."""

    path: Path
    """Created when something is written."""

    @property
    def checkpoint_path(self) -> Path:
        """State to resume from."""
        return self.path / "checkpoint.pt"

    @property
    def log_path(self) -> Path:
        """Losses of every step."""
        return self.path / "log.csv"

    @property
    def validation_path(self) -> Path:
        """Scores on held-out or tuning images."""
        return self.path / "validation.csv"

    @property
    def tensorboard_path(self) -> Path:
        """Folder of the same for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def best_path(self) -> Path:
        """Weights with the best score so far."""
        return self.path / "best.safetensors"

    @property
    def weights_path(self) -> Path:
        """Result of the stage, float32."""
        return self.path / "weights.safetensors"

    @property
    def summary_path(self) -> Path:
        """Summary of the finished stage."""
        return self.path / "summary.json"

    @property
    def is_started(self) -> bool:
        """Whether there is something to resume or keep."""
        return self.checkpoint_path.exists() or self.summary_path.exists()

    def read_summary(self) -> dict[str, Any] | None:
        """Summary of the finished stage; None if it is not finished.

        Raises:
            DataError: if the file is damaged.
        """
        try:
            summary: dict[str, Any] = json.loads(self.summary_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.summary_path}: cannot be read ({error}); expected the summary of a finished"
                " stage; remove the folder of the stage to train it again"
            ) from error
        return summary

    def save_checkpoint(self, content: Mapping[str, Any]) -> None:
        """Write the state, with the current lengths of the logs.

        Raises:
            OutputError: if it cannot be written; the previous checkpoint is unchanged.
        """
        lengths = {path.name: _length(path) for path in (self.log_path, self.validation_path)}
        buffer = io.BytesIO()  # torch.save hides why a file could not be written
        torch.save({**content, "log_bytes": lengths}, buffer)
        write_bytes(self.checkpoint_path, buffer.getvalue())

    def load_checkpoint(self, description: Mapping[str, Any]) -> dict[str, Any]:
        """Read the state and cut the logs back to it.

        Args:
            description: must be the one that the checkpoint was made with.

        Raises:
            CheckpointError: if the file is damaged.
            UsageError: if it was made with other settings.
        """
        path = self.checkpoint_path
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{path}: cannot be read ({str(error).partition(chr(10))[0]}); expected a"
                " checkpoint of this stage; remove it to restart the stage"
            ) from error
        check_same(path, content["description"], description)
        for name, length in content["log_bytes"].items():
            _cut(self.path / name, length)
        return content

    def remove_leftovers(self) -> None:
        """Remove unfinished files of a killed process, and logs without a checkpoint.

        Raises:
            OutputError: if one cannot be removed.
        """
        remove_stale_parts(self.path)
        if not self.is_started:
            for path in (self.log_path, self.validation_path, self.best_path):
                remove_result(path)


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cut(path: Path, length: int) -> None:
    found = _length(path)
    if found < length:
        logger.warning("%s: found %d bytes, expected %d; some lines are lost", path, found, length)
    elif found > length:
        os.truncate(path, length)


def check_same(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise UsageError if two descriptions differ, naming the first differences.

    Settings that one of them lacks, as those of an earlier version do, count as the defaults.

    Args:
        path: file that ``found`` comes from.
        found: plain values, nested.
        asked: description of this run, likewise.
    """
    defaults = plain_defaults()
    differences = list(_differences(_fill(found, defaults), _fill(asked, defaults), ""))
    if differences:
        raise UsageError(
            f"{path}: made with other settings: {'; '.join(differences[:3])}; resume with the same"
            " options, images and labels, choose another run folder, or remove the folder of this"
            " stage"
        )


def _fill(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Values with the defaults of what they lack, at any depth."""
    filled = {**defaults, **values}
    for key, default in defaults.items():
        if isinstance(default, Mapping) and isinstance(values.get(key), Mapping):
            filled[key] = _fill(values[key], default)
    return filled


def _differences(found: Any, asked: Any, place: str) -> Iterator[str]:  # noqa: ANN401 (plain values)
    if isinstance(found, Mapping) and isinstance(asked, Mapping):
        for key in dict.fromkeys([*found, *asked]):
            yield from _differences(found.get(key), asked.get(key), f"{place}.{key}".lstrip("."))
    elif found != asked:
        yield f"{place} was {found!r}, now {asked!r}"


def save_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a state dict as it is (float32), atomically.

    Raises:
        OutputError: if it cannot be written; an existing file is unchanged.
    """
    write_bytes(path, save({name: value.cpu().contiguous() for name, value in state.items()}))


def write_json(path: Path, content: object) -> None:
    """Write plain values as JSON, atomically.

    Raises:
        OutputError: if it cannot be written.
    """
    write_bytes(path, json.dumps(content, indent=2).encode() + b"\n")


def read_log(path: Path) -> list[dict[str, str]]:
    """Read the rows of a ``log.csv`` or ``validation.csv``; empty if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class CsvLog:
    """Rows that are appended to a CSV file; the header comes first.

    Args:
        path: file to append to.
        columns: names of the columns.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, columns
        self._rows: list[Sequence[object]] = []

    def add(self, row: Sequence[object]) -> None:
        """Keep a row until ``flush``."""
        self._rows.append(row)

    def flush(self) -> None:
        """Write the rows.

        Raises:
            OutputError: if the folder is full or locked; the rows are kept.
        """
        with _naming(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            is_new = _length(self.path) == 0
            with self.path.open("a", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerows([self.columns, *self._rows] if is_new else self._rows)
        self._rows.clear()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise to_output_error(path, error) from error
