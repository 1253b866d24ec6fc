"""Results that follow the labels of an image: overlay, exports, rows of the table, the report."""

from mediar_infer.folder.image_task import ImageTask
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.results import Made
from mediar_infer.labels.confidence import CellConfidence
from mediar_infer.labels.overlay import write_overlay
from mediar_infer.labels.reading import read_labels


def make_results(
    task: ImageTask,
    options: RunOptions,
    *,
    confidence: CellConfidence | None = None,
    is_resumed: bool = False,
) -> Made:
    """Make everything that is asked for besides labels, from the label file and the image.

    Args:
        task: the image, which is opened if need be; its labels are complete.
        options: what is asked for, and where it goes.
        confidence: of the cells, for the table; label files do not have it.
        is_resumed: files of an earlier run that are there are kept.

    Raises:
        MediarError: if the image cannot be read or a result cannot be written; each file is then
            complete or absent.
    """
    name, labels, exports = task.image.export_name, options.label_path(task.image), options.exports
    if is_resumed:
        exports = exports.without_files(options.output_dir, name)
    if options.overlays and not (is_resumed and options.overlay_path(task.image).is_file()):
        _make_overlay(task, options)
    if not (exports or options.report):
        return Made()
    from mediar_infer.exports.export import export_labels

    with task.trace.stage("export"):
        image = task.open() if exports.table else None
        exported = export_labels(
            labels, name, exports, options.output_dir, image=image, confidence=confidence
        )
    if not options.report:
        return Made(exported.columns)
    from mediar_infer.report.figures import draw_figures

    with task.trace.stage("report"):
        figures = draw_figures(task.open(), labels, exported.areas, exported.pixel_size_um)
    return Made(exported.columns, figures)


def _make_overlay(task: ImageTask, options: RunOptions) -> None:
    source = task.open()
    if not options.has_overlay(source.height, source.width):
        task.trace.warn("too large for an overlay; open image and labels in a viewer")
        return
    with task.trace.stage("overlay"):
        labels = read_labels(options.label_path(task.image))
        image = source.read_rows(0, source.height)
        write_overlay(options.overlay_path(task.image), image, labels)
