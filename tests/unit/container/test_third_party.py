"""Notices of the container image: every installed package with its licence."""

import re
from importlib.metadata import version

from mediar_infer.container.third_party import third_party_notices


def test_every_package_has_a_line_and_known_ones_their_licence_texts():
    text = "\n".join(third_party_notices())
    headings = dict(re.findall(r"^={79}\n(\S+) .*?: (.+)\n={79}$", text, re.MULTILINE))
    assert "BSD-3-Clause" in headings["numpy"]
    assert f"numpy {version('numpy')}: " in text
    assert "mediar-infer" not in headings
    assert "" not in headings.values()
    assert "Redistribution and use in source and binary forms" in text
