"""Templates of the page: every text that is put in is escaped, wherever it comes from."""

from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup


def read_asset(name: str) -> str:
    """Text of a file of this package."""
    return (files("mediar_infer.challenge") / name).read_text(encoding="utf-8")


def render(name: str, **values: Any) -> Markup:  # noqa: ANN401 (whatever the template shows)
    """Fill in a template.

    Text becomes HTML that shows it, also in attributes. Characters that have no shape or turn the
    direction of reading, and bytes that are no text, become question marks; line breaks stay.

    Args:
        name: file of this package.
        values: what the template names; only :class:`markupsafe.Markup` is put in as it is.

    Raises:
        jinja2.UndefinedError: if the template names something else.
    """
    return Markup(_environment().get_template(name).render(values))


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
