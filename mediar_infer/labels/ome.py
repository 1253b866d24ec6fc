"""The description of a label TIFF: minimal OME-XML, with the provenance as an annotation.

References:
    OME schema 2016-06, https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np

from mediar_infer.images.geometry import UM_PER_MM
from mediar_infer.images.label_names import SOFTWARE

N_CELLS: Final = "n_cells"
"""Key of the number of cells among the facts of a file."""
_NAMESPACE: Final = f"{SOFTWARE}/provenance"
_N_CELLS_DIGITS: Final = 10  # of 2³² - 1
_MAX_DESCRIPTION: Final = 2**16
_MAX_BRACKETS: Final = 100
_SCHEMA: Final = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_JSON_IN_XML: Final = str.maketrans({mark: f"\\u{ord(mark):04x}" for mark in "<>&"})
"""What XML would take for its own, as JSON can write it."""


@dataclass(frozen=True, slots=True)
class LabelDescription:
    """What the description of a label file says; its length does not depend on the cells."""

    height: int
    """Rows in pixels."""
    width: int
    """Columns in pixels."""
    dtype: np.dtype[Any]
    """uint16 or uint32."""
    pixel_size_mm: tuple[float, float] | None = None
    """Height and width of a pixel; None if unknown, and nothing is said of it."""
    facts: Mapping[str, Any] | None = None
    """Provenance of the labels, ready for JSON."""

    def to_bytes(self, n_cells: int | None) -> bytes:
        """Format it as OME-XML in UTF-8.

        Args:
            n_cells: number of cells; None while it is unknown.
        """
        size, annotation, reference = "", "", ""
        if self.pixel_size_mm is not None:
            size = "".join(
                f' PhysicalSize{axis}="{mm * UM_PER_MM:.12g}" PhysicalSize{axis}Unit="µm"'
                for axis, mm in zip("YX", self.pixel_size_mm, strict=True)
            )
        if self.facts is not None:
            reference = '<AnnotationRef ID="Annotation:0"/>'
            annotation = (
                f'<StructuredAnnotations><CommentAnnotation ID="Annotation:0"'
                f' Namespace="{_NAMESPACE}"><Value>{_to_json(self.facts, n_cells)}</Value>'
                "</CommentAnnotation></StructuredAnnotations>"
            )
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            f'<OME xmlns="{_SCHEMA}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
            f' xsi:schemaLocation="{_SCHEMA} {_SCHEMA}/ome.xsd" Creator="{SOFTWARE}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT"'
            f' Type="{self.dtype.name}" SizeX="{self.width}" SizeY="{self.height}" SizeC="1"'
            f' SizeZ="1" SizeT="1"{size}>'
            '<Channel ID="Channel:0:0" Name="cells" SamplesPerPixel="1"/>'
            f'<TiffData IFD="0" PlaneCount="1"/></Pixels>{reference}</Image>{annotation}</OME>'
        ).encode()


def _to_json(facts: Mapping[str, Any], n_cells: int | None) -> str:
    text = json.dumps({**facts, N_CELLS: n_cells}, allow_nan=False).translate(_JSON_IN_XML)
    return text + " " * (_N_CELLS_DIGITS - len(json.dumps(n_cells)))


def parse_description(text: str) -> dict[str, Any]:
    """Facts in the description of a label TIFF, which can be written as JSON again.

    They are an annotation of OME-XML or, in files of version 0.1.0, the whole description. It may
    be anything: one without an object, that is very long or deeply nested, or has numbers that are
    not finite gives no facts.
    """

    def to_finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):  # NaN, Infinity and 1e999
            raise ValueError(f"{number} is not a JSON number")
        return value

    if len(text) > _MAX_DESCRIPTION or text.count("{") + text.count("[") > _MAX_BRACKETS:
        return {}
    try:
        stated = _find_annotation(text) if text.startswith("<") else text
        facts = json.loads(stated, parse_constant=to_finite, parse_float=to_finite)
    except (ValueError, ElementTree.ParseError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _find_annotation(text: str) -> str:
    """Value of this package's annotation; empty if there is none."""
    if _NAMESPACE not in text:
        return ""
    path = f".//{{*}}CommentAnnotation[@Namespace='{_NAMESPACE}']/{{*}}Value"
    return ElementTree.fromstring(text).findtext(path) or ""
