"""Folders and manifests → checked records with roles and splits, and every problem by its file."""

import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from mediar_infer.errors import UsageError
from mediar_infer.training.data.candidates import (
    CandidateImage,
    find_candidates,
    make_ids_unique,
    read_data_manifest,
)
from mediar_infer.training.data.file_checks import examine_image, examine_labels
from mediar_infer.training.data.problems import (
    DUPLICATE_IMAGE,
    LEAKED_IMAGE,
    MISSING_LABELS,
    UNUSED_LABELS,
    Problem,
)
from mediar_infer.training.data.splits import assign_splits, find_leaks
from mediar_infer.training.data.table import LABELLED_ROLES, ROLES, Role, TrainingImage

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """How images enter the table."""

    role: Role = "target"
    """Role of images that neither a manifest nor ``--role-of`` gives one."""
    role_of: Mapping[str, Role] = field(default_factory=dict)
    """Start of an image id → role; overrides the manifest, and the longest start wins."""
    hold_out: float = 0.1
    """Fraction of the labelled images to hold out where no split is given (10% in the paper)."""
    seed: int = 19940817
    """Seed of the hold-out."""
    keep_empty: bool = False
    """Keep images without any labelled cell; otherwise they count as not labelled yet."""
    accept_predictions: bool = False
    """Train on labels that this package predicted, as they are."""


@dataclass(frozen=True, slots=True)
class Index:
    """Result of indexing."""

    records: list[TrainingImage]
    """Usable images."""
    problems: list[Problem]
    """Everything wrong or unusual, one entry per file."""


def index_folders(
    folders: Sequence[Path], manifests: Sequence[Path] = (), options: IndexOptions | None = None
) -> Index:
    """Find, check and split the images of folders and manifests.

    Every image and label file is read completely.

    Args:
        folders: of images and labels, see ``find_candidates``.
        manifests: CSV files, see ``read_data_manifest``.
        options: roles and split.

    Returns:
        Records and problems; the records may be empty.

    Raises:
        UsageError: if a folder or manifest does not exist, or an option is wrong.
    """
    options = options or IndexOptions()
    candidates: list[CandidateImage] = []
    problems: list[Problem] = []
    for folder in folders:
        found, wrong = find_candidates(folder)
        candidates += found
        problems += wrong
    for manifest in manifests:
        candidates += read_data_manifest(manifest)
    unique, wrong = make_ids_unique(candidates)
    problems += wrong
    roles = _resolve_roles(unique, options)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checked = list(
            pool.map(lambda image: _check(image, roles[image.image_id], options), unique)
        )
    records = []
    for record, wrong in checked:
        records += [record] if record else []
        problems += wrong
    problems += _find_duplicates(records)
    given = {each.image_id: each.split for each in unique if each.split}
    records = assign_splits(records, given, hold_out=options.hold_out, seed=options.seed)
    leaks = find_leaks(records)
    problems += [
        Problem(LEAKED_IMAGE, copy.image_path, f"the bytes of {original.image_path}")
        for copy, original in leaks
    ]
    leaked = {copy.image_id for copy, _ in leaks}
    return Index([record for record in records if record.image_id not in leaked], problems)


def _resolve_roles(candidates: Sequence[CandidateImage], options: IndexOptions) -> dict[str, Role]:
    wrong = [role for role in (options.role, *options.role_of.values()) if role not in ROLES]
    if wrong:
        raise UsageError(f"found role {wrong[0]!r}, expected one of {', '.join(ROLES)}")
    starts = sorted(options.role_of, key=len, reverse=True)
    unused = set(starts)
    roles = {}
    for candidate in candidates:
        start = next((each for each in starts if candidate.image_id.startswith(each)), None)
        unused.discard(start or "")
        by_start = None if start is None else options.role_of[start]
        roles[candidate.image_id] = by_start or candidate.role or options.role
    if unused:
        raise UsageError(
            f"found no image id that starts with {', '.join(sorted(unused))}, expected prefixes "
            "of ids such as "
            f"{', '.join(candidate.image_id for candidate in candidates[:3])}"
        )
    return roles


def _check(
    candidate: CandidateImage, role: Role, options: IndexOptions
) -> tuple[TrainingImage | None, list[Problem]]:
    """Check the files of one candidate; the record is ``None`` if they cannot be used."""
    label_path = candidate.label_path
    has_labels = role in LABELLED_ROLES
    if has_labels and label_path is None:
        found = f"no {candidate.image_path.stem}_label.tiff for role {role}"
        return None, [Problem(MISSING_LABELS, candidate.image_path, found)]
    facts, problems = examine_image(candidate.image_path)
    if facts is None:
        return None, problems
    n_cells: int | None = 0
    if label_path and has_labels:
        n_cells, wrong = examine_labels(
            label_path,
            facts,
            keeps_empty=options.keep_empty,
            accepts_predictions=options.accept_predictions,
        )
        problems += wrong
    elif label_path:
        problems.append(Problem(UNUSED_LABELS, label_path, f"labels of an image of role {role}"))
    if n_cells is None:
        return None, problems
    record = TrainingImage(
        image_id=candidate.image_id,
        role=role,
        split="train",
        modality=candidate.modality,
        source=candidate.source,
        image_path=candidate.image_path,
        label_path=label_path if has_labels else None,
        height=facts.height,
        width=facts.width,
        dtype=facts.dtype,
        n_cells=n_cells,
        digest=facts.digest,
    )
    return record, problems


def _find_duplicates(records: Sequence[TrainingImage]) -> list[Problem]:
    copies: defaultdict[str, list[TrainingImage]] = defaultdict(list)
    for record in records:
        copies[record.digest].append(record)
    return [
        Problem(DUPLICATE_IMAGE, copy.image_path, f"the bytes of {first.image_path}")
        for first, *rest in copies.values()
        for copy in rest
    ]
