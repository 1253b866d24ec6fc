"""Fixtures of the tests that are named after what users see."""

import subprocess
import sys

import pytest
from command_fixtures import (  # noqa: F401
    mount_tmpfs,
    perfect_network,
    predict,
)
from folder_helpers import ROOT, subprocess_environment

COMMAND = [sys.executable, "-m", "mediar_infer"]


@pytest.fixture
def run_command():
    """Run ``mediar-infer`` in a shell: ``run_command(arguments, redirections, **environment)``."""

    def run(arguments, redirections="", **environment):
        return subprocess.run(
            ["bash", "-c", f'exec "$@" {redirections}', "bash", *COMMAND, *map(str, arguments)],
            cwd=ROOT, env=subprocess_environment(**environment), capture_output=True, check=False,
        )  # fmt: skip

    return run
