"""Completes the bill of materials (CycloneDX) that a tool made of the installed Python packages.

python bill_of_materials.py PACKAGES.json WEIGHTS > BILL.json   # run once, while an image is built
"""

import hashlib
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mediar_infer._version import __version__

_OWN_NAME = "mediar-infer"


def complete_bill(bill: dict[str, Any], *more: dict[str, Any]) -> dict[str, Any]:
    """Name this package as what the bill is about, and add components to the bill.

    Args:
        bill: a CycloneDX document of version 1.5 or newer.
        more: components of the container image besides Python packages.
    """
    subject = {
        "bom-ref": _OWN_NAME,
        "type": "application",
        "name": _OWN_NAME,
        "version": __version__,
        "licenses": [{"license": {"id": "MIT"}}],
    }
    components = [*bill["components"], *more]
    needs = {"ref": _OWN_NAME, "dependsOn": [each["bom-ref"] for each in components]}
    return bill | {
        "metadata": bill["metadata"] | {"component": subject},
        "components": components,
        "dependencies": [*bill["dependencies"], needs],
    }


def system_packages() -> Iterator[dict[str, Any]]:
    """Yield a component for each package of Debian or its kin; none on other systems."""
    if shutil.which("dpkg-query") is None:
        return
    system = platform.freedesktop_os_release()
    listed = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}\n"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for line in listed.splitlines():
        name, version, architecture = line.split()
        place = f"?arch={architecture}&distro={system['ID']}-{system.get('VERSION_ID', 'testing')}"
        address = f"pkg:deb/{system['ID']}/{quote(name)}@{quote(version)}{place}"
        yield {
            "bom-ref": address,
            "type": "library",
            "name": name,
            "version": version,
            "purl": address,
        }


def weight_files(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a component with its SHA-256 for each weight file below a folder."""
    for path in sorted(folder.rglob("*.safetensors")):
        name = str(path.relative_to(folder.parent))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        yield {
            "bom-ref": name,
            "type": "machine-learning-model",
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": digest}],
        }


if __name__ == "__main__":
    packages, weights = json.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])
    complete = complete_bill(packages, *system_packages(), *weight_files(weights))
    sys.stdout.write(json.dumps(complete, indent=2) + "\n")
