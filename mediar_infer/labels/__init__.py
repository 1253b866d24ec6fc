"""From bands of maps to instance labels, label files and scores.

Two functions work on plain arrays: :func:`follow_flow` and :func:`labels_from_maps`.

A *cell* is an id in a label image, and its pixels may lie in several pieces, as in the released
system: an id is given by where the flow of a pixel ends, not by what the pixel touches. Cells are
counted by ids everywhere (results, ledger, demo); only the challenge's scorer omits those that
touch the two outermost pixels of the image.

Names of the field (Cellpose's ``dynamics.py``) and ours:

=========================== =====================================================================
``compute_masks``           :func:`labels.masks.compute_labels`; for large images
                            :class:`labels.stitching.StitchedLabels`
``follow_flows``            ``LabelKernels.track``
``get_masks``               ``LabelKernels.add_hits`` and ``find_basins``
``remove_bad_flow_masks``   the flow check: :func:`labels.flows.compute_flow_errors` against
                            ``MaskConfig.flow_threshold``, counted by ``FlowCheck``
``flow_error``              :func:`labels.flows.compute_flow_errors`
``fill_holes_and_…``        :func:`labels.holes.fill_holes`; background only, never over a cell
``masks_to_flows``          :func:`labels.flows.compute_unit_flow`, by ``LabelKernels.diffuse``
``dP``, ``p``               ``flow``, ``ends``
``cellprob``                ``cellprob_logits``: the probability before the sigmoid
mask (instance)             label; a *mask* or *foreground* is boolean here
=========================== =====================================================================
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mediar_infer.arrays import BoolArray, Float32Array, LabelArray
    from mediar_infer.config import MaskConfig

# Both import where they run: writing a label file needs neither OpenCV nor torch.


def labels_from_maps(maps: "Float32Array", config: "MaskConfig | None" = None) -> "LabelArray":
    """Turn the maps of a whole image into instance labels.

    Args:
        maps: ``(3, H, W)`` float32: flow y, flow x (five times the unit flow), cell-probability
            logit. Not modified.
        config: thresholds, the released ones by default, and whether holes of cells are filled.

    Returns:
        ``(H, W)`` int32, 0 = background, cells 1 … n.
    """
    from mediar_infer.config import MaskConfig
    from mediar_infer.labels.holes import fill_rows
    from mediar_infer.labels.masks import compute_labels

    config = config or MaskConfig()
    labels, _ = compute_labels(maps, config)
    if config.fill_holes:
        fill_rows(labels, is_bottom=True)
    return labels


def follow_flow(flow: "Float32Array", foreground: "BoolArray") -> "LabelArray":
    """Follow the flow from every foreground pixel to where it ends.

    Args:
        flow: ``(2, H, W)`` float32, (dy, dx), five times the unit flow. Not modified.
        foreground: ``(H, W)`` bool; elsewhere the flow counts as zero.

    Returns:
        ``(2, H, W)`` int32: row and column of the pixel in which the track of each pixel ends; a
        pixel that is not followed ends where it is.
    """
    import numpy as np

    from mediar_infer.labels.kernels import Frame
    from mediar_infer.labels.kernels.choice import select_kernels

    height, width = foreground.shape
    flow = np.ascontiguousarray(flow, np.float32)
    foreground = np.ascontiguousarray(foreground, np.bool_)
    ends, _ = select_kernels().track(flow, foreground, Frame(0, 0, height, width))
    return np.stack(np.divmod(ends, np.int32(width)))
