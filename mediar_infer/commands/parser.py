"""The parser of a command line with sub-commands."""

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, Final

_ALIKE: Final = 0.7
"""Least likeness of two options of which one may be meant by the other, 0 to 1."""


class CommandParser(argparse.ArgumentParser):
    """Says what it does not know itself, and what may have been meant.

    The parser of a sub-command would otherwise hand it back to the parser of the whole program,
    whose usage has none of the options that could be meant.
    """

    def parse_known_args(  # type: ignore[override]  # overloads of which the types are not needed
        self,
        args: Sequence[str] | None = None,
        namespace: Any = None,  # noqa: ANN401
    ) -> tuple[Any, list[str]]:
        """Parse; the process ends with 2 if anything is left over."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            alike = [_find_alike(word, self._option_string_actions) for word in unknown]
            meant = " ".join(dict.fromkeys(option for option in alike if option is not None))
            hint = f"; did you mean {meant}?" if meant else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return found, unknown


def _find_alike(word: str, known: Iterable[str]) -> str | None:
    """The known option that is most like a word, if the word is an option and one is alike."""
    if not word.startswith("--"):
        return None
    from difflib import get_close_matches

    return next(iter(get_close_matches(word.partition("=")[0], known, 1, _ALIKE)), None)
