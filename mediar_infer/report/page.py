"""The page: a head, what went wrong, a table that sorts, and a viewer for the cells of an image."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markupsafe import Markup

from mediar_infer.output_files import writing_output
from mediar_infer.report.pictures import Layers
from mediar_infer.report.templates import read_asset, render_parts

_MAX_LISTED: Final = 12


@dataclass(frozen=True, slots=True)
class TableCell:
    """One cell of the table: what is shown, and what it is sorted by."""

    text: str
    """What is shown."""
    value: float | str | None
    """What it is sorted by; None sorts last."""
    kind: str = ""
    """CSS classes of the cell, separated by spaces."""
    mark: str = ""
    """CSS class of the text itself, if it is marked."""
    hint: str = ""
    """What a marked text shows on hovering."""
    share: float | None = None
    """Share of the tolerance, 1 for all of it, shown as a bar; None draws no bar."""


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Something that went wrong with an image, listed on top of the page."""

    target: str
    """HTML id of its row, see ``row_id``."""
    name: str
    """Name of the image, which leads to its row."""
    text: str
    """What follows the name."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing above the table."""

    title: str
    """Heading above the drawing."""
    drawing: Markup
    """SVG."""
    caption: str
    """What the drawing shows, below it."""


@dataclass(frozen=True, slots=True)
class PageHead:
    """Everything on a page but its images."""

    state: str
    """``good``, ``bad`` or ``neutral``: colour and shape of the mark beside the headline."""
    eyebrow: str
    """Small line above the headline."""
    headline: str
    """Heading of the page."""
    title: str
    """Title of the browser's window."""
    lead: str
    """The outcome in one sentence."""
    figures: Sequence[tuple[str, str]]
    """Term and number."""
    problems_title: str
    """Heading of the problems."""
    problems: Sequence[RowProblem]
    """What is wrong with images, each with a link to its row."""
    plot: Plot | None
    """A drawing above the table, if there is one."""
    facts: Sequence[tuple[str, str]]
    """How this was run."""


@dataclass(frozen=True, slots=True)
class ImageSection:
    """What the viewer shows of an image when its row is chosen."""

    facts: Sequence[tuple[str, str]]
    """Term and what there is to say."""
    layers: Layers
    """Pictures of the image, shown one over the other."""
    problems: Sequence[str] = ()
    """Sentences in the colour of errors."""
    log: str = ""
    """End of what the run printed."""
    histogram: Markup | str = ""
    """A drawing of the sizes of its cells."""


def row_id(index: int) -> str:
    """HTML id of a row of the table, by its place from 0."""
    return f"image-{index + 1}"


def size_cell(size: tuple[int, int] | None) -> TableCell:
    """Cell for height and width in pixels; sorts by their product."""
    if size is None:
        return TableCell("–", None, "minor")
    return TableCell(f"{size[0]}×{size[1]}", size[0] * size[1], "minor")


def number_cell(value: float | None, form: str, kind: str = "") -> TableCell:
    """Cell for a number in a format; a dash if it is unknown."""
    return TableCell("–" if value is None else format(value, form), value, kind)


def known_columns(rows: Sequence[Mapping[str, TableCell]]) -> list[dict[str, TableCell]]:
    """Rows without columns that hold no value in any of them."""
    known = {name for row in rows for name, cell in row.items() if cell.value is not None}
    return [{name: row[name] for name in row if name in known} for row in rows]


def write_page(
    path: Path,
    head: PageHead,
    rows: Sequence[Mapping[str, TableCell]],
    images: Iterable[ImageSection],
) -> None:
    """Write the page, one image after the other.

    Args:
        path: the HTML file; complete or absent.
        head: everything but the images.
        rows: column → cell, for each image; all have the same columns, first the image's name.
        images: in the order of the rows; taken one by one, so that their pictures need not be in
            memory together.

    Raises:
        OutputError: if it cannot be written.
    """
    parts = render_parts(
        "page.html",
        style=Markup(read_asset("page.css")),
        script=Markup(read_asset("page.js")),
        head=head,
        n_listed=_MAX_LISTED,
        rows=rows,
        images=images,
    )
    with writing_output(path) as file:
        for part in parts:
            file.write(part.encode("utf-8", "replace"))
