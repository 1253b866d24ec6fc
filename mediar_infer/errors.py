"""Errors of the package: each says what was found, what was expected and what to do."""

from collections.abc import Iterable
from itertools import islice


class MediarError(Exception):
    """Base of every error that the engine raises on purpose."""


class DataError(MediarError):
    """A file or folder holds bad data: damaged, incomplete, or not what its place calls for."""


class ImageReadError(DataError):
    """An input file cannot be read as one 2-D microscopy image."""


class CheckpointError(MediarError):
    """A weight file is missing, damaged or does not hold a MEDIAR-Former."""


class ShapeError(MediarError):
    """An array does not have the shape that the function needs."""


class OutputError(MediarError):
    """A result cannot be written, or two inputs map to one output name."""


class ExportError(MediarError):
    """Labels cannot be exported: a package or the compiled loops are not installed."""


class PredictionError(MediarError):
    """The network produced something that cannot be turned into labels (NaN or infinity)."""


class UsageError(MediarError):
    """Wrong use: a bad option, options that exclude each other, or a path that does not exist."""


class SocketError(MediarError):
    """The inputs of a platform's job are not those of a known interface."""


class ClusterError(MediarError):
    """A Dask cluster is lost, or its workers cannot do what is asked of them."""


class TrainingError(MediarError):
    """Training cannot go on: a loss is not finite, or a process of several died."""


def list_some(names: Iterable[object], most: int) -> str:
    """Names for a message, separated by commas; ``…`` stands for those beyond a number."""
    shown = [str(name) for name in islice(names, most + 1)]
    return ", ".join([*shown[:most], "…"] if len(shown) > most else shown)
