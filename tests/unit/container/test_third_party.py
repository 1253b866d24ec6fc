"""Notices of the container image: every installed package with its licence."""

import re
from importlib.metadata import PathDistribution, version

from mediar_infer.container.third_party import third_party_notices


def test_every_package_has_a_line_and_known_ones_their_licence_texts():
    text = "\n".join(third_party_notices())
    headings = dict(re.findall(r"^={79}\n(\S+) .*?: (.+)\n={79}$", text, re.MULTILINE))
    assert "BSD-3-Clause" in headings["numpy"]
    assert f"numpy {version('numpy')}: " in text
    assert "mediar-infer" not in headings
    assert "" not in headings.values()
    assert "Redistribution and use in source and binary forms" in text


def test_licence_that_was_trimmed_with_its_folder_is_left_out(tmp_path, monkeypatch):
    folder = tmp_path / "cells-1.dist-info"
    (folder / "licenses").mkdir(parents=True)
    (folder / "METADATA").write_text("Name: cells\nVersion: 1\n")
    kept = "cells-1.dist-info/licenses/LICENSE"
    (folder / "RECORD").write_text(f"cells/include/LICENSE,,\n{kept},,\n")
    (folder / "licenses" / "LICENSE").write_text("Be kind.")
    package = PathDistribution(folder)
    monkeypatch.setattr("mediar_infer.container.third_party.distributions", lambda: [package])
    lines = list(third_party_notices())
    assert lines[-2:] == [f"--- {kept}", "Be kind."]
    assert not any("include" in line for line in lines)
