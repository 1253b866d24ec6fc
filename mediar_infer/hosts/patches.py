"""A method for programs that cut an image into patches and join the cells themselves, like Sopa."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import LabelArray
from mediar_infer.config import EngineConfig
from mediar_infer.errors import ShapeError
from mediar_infer.hosts.models import load_segmenter
from mediar_infer.images.array_likes import to_array
from mediar_infer.images.channels import check_choice
from mediar_infer.images.sources import ArraySource


class PatchSegmenter:
    """A function from a patch ``(C, Y, X)`` to its labels ``(Y, X)``.

    It holds settings only, so it can be sent to workers: each process loads the networks with its
    first patch and keeps them.

    Args:
        weights: a folder, or one or two files; by default the pair that comes with the package.
        config: settings; by default the paper's full system.
        channels: numbers of one to three channels of a patch, from 0, ``"-"`` for zeros; by default
            the first three.

    Raises:
        UsageError: if no patch can satisfy the choice of channels.
    """

    def __init__(
        self,
        weights: Sequence[str | Path] | str | Path = (),
        config: EngineConfig | None = None,
        channels: Sequence[int | str] = (),
    ) -> None:
        given = [weights] if isinstance(weights, str | Path) else weights
        self.weights = tuple(Path(path) for path in given)
        self.config = config or EngineConfig()
        check_choice(channels)
        self.channels = tuple(channels)

    def __call__(self, patch: npt.ArrayLike) -> LabelArray:
        """Segment a patch.

        Args:
            patch: ``(C, Y, X)``, any real dtype, not normalised: a numpy array, an array-like of
                dask or zarr, or a torch tensor on any device. Not modified.

        Returns:
            ``(Y, X)`` int32 labels, 0 = background, cells 1 … n.

        Raises:
            CheckpointError: if weights are missing, damaged or of another network.
            ImageReadError: if a channel does not exist.
            ShapeError: if the patch is not an image with an axis of channels, or has masked pixels.
        """
        given, _, _ = to_array(patch, "patch")
        if given.ndim != 3:  # rows and columns would change places without a word
            raise ShapeError(
                f"patch: found an array of shape {given.shape}, expected (C, Y, X); use patch[None]"
                " for one channel"
            )
        image = np.moveaxis(given[:], 0, -1)
        source = ArraySource(image, channels=self.channels, is_channels_last=True)
        return load_segmenter(self.weights, self.config).segment_source(source).labels
