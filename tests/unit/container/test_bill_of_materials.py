"""Bill of materials of the container image: CycloneDX, with system packages and weights."""

import hashlib
import json
import subprocess
import sys
import venv

import pytest

from mediar_infer import __version__
from mediar_infer.container.bill_of_materials import complete_bill, system_packages, weight_files

_BARE = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "version": 1,
    "metadata": {"tools": {"components": []}},
    "components": [{"bom-ref": "numpy==2", "type": "library", "name": "numpy", "version": "2"}],
    "dependencies": [{"ref": "numpy==2"}],
}


def _by_name(bill):
    return {component["name"]: component for component in bill["components"]}


@pytest.fixture
def weights(tmp_path):
    (tmp_path / "weights" / "other").mkdir(parents=True)
    for name in ("a.safetensors", "other/a.safetensors", "README.md"):
        (tmp_path / "weights" / name).write_bytes(name.encode())
    return tmp_path / "weights"


def test_weights_are_listed_with_their_digests(weights):
    found = {each["name"]: each["hashes"][0]["content"] for each in weight_files(weights)}
    assert found == {
        f"weights/{name}": hashlib.sha256(name.encode()).hexdigest()
        for name in ("a.safetensors", "other/a.safetensors")
    }


def test_packages_of_debian_have_their_address(tmp_path, monkeypatch):
    program = tmp_path / "dpkg-query"
    program.write_text("#!/bin/sh\necho libstdc++6 1:12.2.0-14+deb12u1 amd64\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    release = {"ID": "debian", "VERSION_ID": "12"}
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: release)
    (component,) = system_packages()
    assert component["version"] == "1:12.2.0-14+deb12u1"
    assert component["purl"] == (
        "pkg:deb/debian/libstdc%2B%2B6@1%3A12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12"
    )


def test_other_systems_list_no_system_packages(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(system_packages()) == []


def test_the_bill_is_about_this_package_and_keeps_what_it_had(weights):
    bill = complete_bill(_BARE, *weight_files(weights))
    assert bill["metadata"]["component"]["version"] == __version__
    assert bill["metadata"]["tools"] == _BARE["metadata"]["tools"]
    assert set(_by_name(bill)) == {
        "numpy", "weights/a.safetensors", "weights/other/a.safetensors",
    }  # fmt: skip
    (needs,) = (each for each in bill["dependencies"] if each["ref"] == "mediar-infer")
    assert needs["dependsOn"] == [component["bom-ref"] for component in bill["components"]]


def test_completed_bill_of_an_environment_is_valid(weights, tmp_path):
    pytest.importorskip("cyclonedx_py", reason="cyclonedx-bom is not installed")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    environment, packages = tmp_path / "environment", tmp_path / "packages.json"
    venv.create(environment)
    metadata = next(environment.glob("lib/*/site-packages")) / "cells-1.5.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.4\nName: cells\nVersion: 1.5\n")
    subprocess.run(
        [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible",
         "--no-validate", "--output-file", packages, environment / "bin" / "python"],
        check=True, capture_output=True,
    )  # fmt: skip
    bill = complete_bill(
        json.loads(packages.read_bytes()), *system_packages(), *weight_files(weights)
    )
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    assert _by_name(bill)["cells"]["purl"] == "pkg:pypi/cells@1.5"
