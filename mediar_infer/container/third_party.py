"""Prints the licences of all installed packages: run once, while the container image is built."""

import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

_OWN_NAME = "mediar-infer"
_LICENCE_FILES = ("LICENSE", "LICENCE", "COPYING", "NOTICE")
_RULE = "=" * 79


def third_party_notices() -> Iterator[str]:
    """Yield the lines of the notices: each package with its version, licence and licence texts."""
    packages = {each.metadata["Name"].lower(): each for each in distributions()}
    packages.pop(_OWN_NAME, None)
    for name in sorted(packages):
        yield _RULE
        yield f"{name} {packages[name].version}: {_licence(packages[name])}"
        yield _RULE
        yield from _licence_texts(packages[name])


def _licence(package: Distribution) -> str:
    """The licence in one line, from whichever field of the metadata names it."""
    metadata = package.metadata
    expression, *_ = metadata.get_all("License-Expression") or [""]
    classified = [
        classifier.rpartition(" :: ")[2]
        for classifier in metadata.get_all("Classifier") or []
        if classifier.startswith("License :: ")
    ]
    text, *_ = metadata.get_all("License") or [""]
    stated = text.strip().partition("\n")[0]
    return expression or ", ".join(classified) or stated or "see its licence texts"


def _licence_texts(package: Distribution) -> Iterator[str]:
    for path in sorted(package.files or []):
        place = Path(str(path.locate()))
        is_licence = path.name.upper().startswith(_LICENCE_FILES)
        # Those of headers are trimmed with them.
        if is_licence and path.suffix not in (".py", ".pyc") and place.is_file():
            yield f"--- {path}"
            yield place.read_text(encoding="utf-8", errors="replace")


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in third_party_notices())
