"""Text of any origin as part of a page."""

from html import escape


def escape_text(text: str) -> str:
    """Escape text for HTML, also in attributes.

    Characters that have no shape or turn the direction of reading, and bytes that are no text,
    become question marks; line breaks stay.
    """
    return escape("".join(each if each.isprintable() or each == "\n" else "?" for each in text))
