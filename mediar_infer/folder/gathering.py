"""What is gathered over a run and written at its end: the table and the report."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mediar_infer.folder.ledger import LedgerEntry
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.provenance import Provenance
from mediar_infer.folder.results import ImageResult
from mediar_infer.output_files import remove_result

if TYPE_CHECKING:
    from mediar_infer.exports.table import GatheredTable
    from mediar_infer.folder.report import RunReport


class Gathering:
    """Gathers what the table and the report get of each image, in whatever order they end.

    Those of an earlier run under their names are removed: they would show other labels if this run
    did not come to its end.

    Args:
        options: which of them are asked for, and where they go.

    Raises:
        ExportError: if a package is missing.
        OutputError: if one of an earlier run cannot be removed.
    """

    def __init__(self, options: RunOptions) -> None:
        self._names: dict[str, str] = {}
        """Image → its name in the table."""
        self._table = _open_table(options)
        self._report = _open_report(options)
        for path in (options.exports.table_path(options.output_dir), options.report_path):
            # A folder in the way is an error when they are written: labels come first.
            if path is not None and not os.path.isdir(path):  # noqa: PTH112 (no error)
                remove_result(path)

    def add(self, result: ImageResult) -> None:
        """Gather what an image gives.

        Raises:
            OutputError: if the disk is full.
        """
        image, made = result.image, result.made
        if self._table is not None and made.columns is not None:
            self._names[image.name] = image.export_name
            self._table.add(image.export_name, made.columns)
        if self._report is not None and made.figures is not None:
            self._report.add(image.name, made.figures)

    def write(self, entries: Sequence[LedgerEntry], provenance: Provenance) -> None:
        """Write table and report.

        Args:
            entries: all files of the run, in the order in which they are shown.
            provenance: models and settings.

        Raises:
            OutputError: if one of them cannot be written.
        """
        if self._table is not None:
            files = (entry.file for entry in entries)
            self._table.write(self._names[file] for file in files if file in self._names)
        if self._report is not None:
            self._report.write(entries, provenance)

    def close(self) -> None:
        """Drop what was gathered."""
        for each in (self._table, self._report):
            if each is not None:
                each.close()


def _open_table(options: RunOptions) -> "GatheredTable | None":
    path = options.exports.table_path(options.output_dir)
    if path is None:
        return None
    from mediar_infer.exports.measures import COLUMNS, CONFIDENCE_COLUMNS
    from mediar_infer.exports.table import GatheredTable

    # Whichever images are resumed: programs that read the table rely on its columns.
    return GatheredTable(path, (*COLUMNS, *CONFIDENCE_COLUMNS))


def _open_report(options: RunOptions) -> "RunReport | None":
    if not options.report:
        return None
    from mediar_infer.folder.report import RunReport

    return RunReport(options)
