"""Maps of an image at the scale that is given, or found by trials when the first are taken."""

from collections.abc import Generator, Sequence

from mediar_infer.arrays import Float32Array
from mediar_infer.config import EngineConfig
from mediar_infer.engine.pacing import Pacer
from mediar_infer.engine.preprocess import Scaling
from mediar_infer.engine.scaled import predict_scaled_bands
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ImageSource
from mediar_infer.network.backends import Backend


def predict_rescaled(
    source: ImageSource,
    scaling: Scaling,
    members: Sequence[Backend],
    config: EngineConfig,
    trace: Trace,
    pacer: Pacer | None = None,
    training_diameter: float | None = None,
) -> Generator[Float32Array, None, None]:
    """Predict the merged maps of an image, after finding its scale with ``auto``.

    Args:
        source: the image.
        scaling: its normalisation constants.
        members: the models of the ensemble, all on one device.
        config: settings.
        trace: has the scale, or gains it; gains stages, the progress, and warnings.
        pacer: chooses the plan, under a time budget.
        training_diameter: median diameter of the cells that the models were trained on, in pixels,
            if known; tells ``auto`` what they know.

    Yields:
        Bands ``(3, rows, W)`` of the label grid, from top to bottom without gaps.

    Raises:
        PredictionError: if the network's output is not finite.
    """
    if trace.scale_choice is None:
        from mediar_infer.scales.trials import find_scale

        find_scale(source, scaling, members[0], config, trace, training_diameter).note(trace)
    yield from predict_scaled_bands(
        source, scaling, trace.scale, members, config, trace, pacer=pacer
    )
