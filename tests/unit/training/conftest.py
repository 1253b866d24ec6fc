"""Shared by the tests of training."""

import logging

import pytest


@pytest.fixture
def keep_logging():
    """Restore the package's logger, which commands set up anew."""
    package = logging.getLogger("mediar_infer")
    kept = (package.handlers[:], package.level, package.propagate)
    yield
    package.handlers[:], package.level, package.propagate = kept
