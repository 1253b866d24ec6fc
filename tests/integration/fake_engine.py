"""Stands in for ``docker``: the image's name says what the container does.

State is kept in ``$FAKE_STATE``: one file per living container, and ``calls.jsonl``.
"""

import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

STATE = Path(os.environ["FAKE_STATE"])
LIMIT = 28 * 2**30
SLOW_S = 0.3
"""A slow engine takes so long before and after the command of a container."""


def labels_of(height, width):
    import numpy as np

    labels = np.zeros((height, width), np.uint16)
    labels[5:15, 5:15] = 1
    labels[20:30, 20:35] = 2
    return labels


def write(image, outputs, source):
    import tifffile  # here, as most calls do not need what takes long to import

    height, width = tifffile.imread(source).shape[:2]
    labels = labels_of(height, width)
    name = source.name.split(".")[0] + "_label.tiff"
    if image == "misnaming":
        name = source.name.replace(".", "_") + "_label.tiff"
    elif image == "floating":
        labels = labels.astype("float32")
    elif image == "turning":
        labels = labels.T
    elif image == "skipping":
        labels[labels == 1] = 4
    if image == "damaging":
        (outputs / name).write_bytes(b"II*\0 and no more")
        return
    tifffile.imwrite(outputs / name, labels, compression="zlib")
    if image == "chatty":
        (outputs / "log.txt").write_text("all is well")


def run(arguments):
    name = arguments[arguments.index("--name") + 1]
    mounts = [arguments[k + 1] for k, each in enumerate(arguments) if each == "-v"]
    inputs, outputs = (Path(mount.split(":")[0]) for mount in mounts)
    image = arguments[arguments.index("/bin/bash") - 1].split(":")[0]
    container = STATE / name
    container.write_text(image)
    if image == "slow":
        time.sleep(SLOW_S)
    (source,) = inputs.iterdir()
    started = datetime.now(UTC)
    code = run_command(image, container, source, outputs)
    if container.exists():  # neither killed nor removed
        container.write_text(f"{image} {stated(started)} {stated(datetime.now(UTC))}")
    if image == "slow":
        time.sleep(SLOW_S)
    return code


def stated(moment):
    """A time as engines write it, with nanoseconds."""
    text = moment.isoformat(timespec="microseconds").replace("+00:00", "000Z")
    return json.dumps(text)


def run_command(image, container, source, outputs):
    if image in ("greedy", "killed"):
        return 137
    if image == "failing":
        sys.stderr.write("starting\nno module named torch\n")
        return 3
    if image == "hanging":
        (outputs / ".begun").touch()
        while container.exists():
            time.sleep(0.01)
        return 137
    if image != "silent":
        write(image, outputs, source)
    return 0


def main(arguments):
    with (STATE / "calls.jsonl").open("a") as file:
        file.write(json.dumps(arguments) + "\n")
    if arguments == ["--version"]:
        sys.stdout.write("Fake version 1.0\n")
    elif arguments[:2] == ["image", "inspect"]:
        if arguments[-1].startswith("absent"):
            sys.stderr.write("Error: No such image: absent\n")
            return 1
        sys.stdout.write("sha256:" + "5" * 64)
    elif arguments[:2] == ["container", "run"]:
        return run(arguments)
    elif arguments[:2] == ["container", "inspect"]:
        image, _, times = (STATE / arguments[-1]).read_text().partition(" ")
        was_killed = "true" if image == "greedy" else "false"
        if image == "timeless":
            times = '"2026-11-26T22:00:00Z" "0001-01-01T00:00:00Z"'
        sys.stdout.write(f"{was_killed} {0 if image == 'unlimited' else LIMIT} {times}")
    elif arguments[:2] in (["container", "kill"], ["container", "rm"]):
        (STATE / arguments[-1]).unlink(missing_ok=True)
    return 0


sys.exit(main(sys.argv[1:]))
