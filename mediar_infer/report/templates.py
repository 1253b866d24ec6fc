"""Templates of the page: every text that is put in is escaped, wherever it comes from."""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any, Final

import jinja2
from markupsafe import Markup

_BUFFERED: Final = 64
"""Pieces of a template that are joined to a part."""


def read_asset(name: str) -> str:
    """Text of a file beside this module."""
    return (files("mediar_infer.report") / name).read_text(encoding="utf-8")


def render(name: str, **values: Any) -> Markup:  # noqa: ANN401 (whatever the template shows)
    """Fill in a template.

    Text becomes HTML that shows it, also in attributes. Characters that have no shape or turn the
    direction of reading, and bytes that are no text, become question marks; line breaks stay.

    Args:
        name: file beside this module.
        values: what the template names; only :class:`markupsafe.Markup` is put in as it is.

    Raises:
        jinja2.UndefinedError: if the template names something else.
    """
    return Markup(_environment().get_template(name).render(values))


def render_parts(name: str, **values: Any) -> Iterator[str]:  # noqa: ANN401
    """Fill in a template like ``render``, part by part: it is never in memory whole."""
    stream = _environment().get_template(name).stream(values)
    stream.enable_buffering(_BUFFERED)
    return iter(stream)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read_asset),
        autoescape=True,
        finalize=_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["px"] = "{:.1f}".format
    return environment


def _printable(value: Any) -> Any:  # noqa: ANN401
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in value)
