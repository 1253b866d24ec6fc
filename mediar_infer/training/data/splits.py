"""Hold-out split: seeded, stratified, with exact copies of an image on one side."""

import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mediar_infer.errors import UsageError
from mediar_infer.training.data.csv_files import encode_text
from mediar_infer.training.data.table import LABELLED_ROLES, TrainingImage

_N_SIZE_CLASSES = 4
_ROUNDING = 1e-9


def assign_splits(
    records: Sequence[TrainingImage], given: Mapping[str, str], *, hold_out: float, seed: int
) -> list[TrainingImage]:
    """Hold out a fraction of the labelled images.

    The strata are the (role, source, modality); images of which neither source nor modality is
    known are stratified by their number of cells. Every stratum gives its fraction, rounded so that
    the total fits (largest remainders), and keeps at least one image.

    Args:
        records: the table; images without labels stay in ``train``.
        given: image id → ``train`` or ``val``, kept as given. Copies of an image that is held out
            in this way are held out too.
        hold_out: share of the others to hold out, 0 ≤ share < 1.
        seed: seed of the draw; the order of the records does not matter.

    Returns:
        The records in the same order, with their splits.

    Raises:
        UsageError: if the share is not in [0, 1).
    """
    if not 0 <= hold_out < 1:
        raise UsageError(f"found --hold-out {hold_out}, expected at least 0 and less than 1")
    splits = dict(given)
    free = [record for record in records if record.label_path and record.image_id not in given]
    groups = _group_copies(free)
    decided = _decide_by_digest(records, given)
    drawn: list[list[TrainingImage]] = []
    for group in groups:
        if group[0].digest in decided:
            splits.update((record.image_id, decided[group[0].digest]) for record in group)
        else:
            drawn.append(group)
    for group in _draw(_stratify(drawn), hold_out, seed):
        splits.update((record.image_id, "val") for record in group)
    return [
        replace(
            record, split=splits.get(record.image_id, "train") if record.label_path else "train"
        )
        for record in records
    ]


def find_leaks(records: Sequence[TrainingImage]) -> list[tuple[TrainingImage, TrainingImage]]:
    """Find images of ``train`` that are exact copies of a held-out one.

    Args:
        records: the table with its splits.

    Returns:
        Pairs of (copy in ``train``, held-out image).
    """
    held_out = {record.digest: record for record in records if record.split == "val"}
    return [
        (record, held_out[record.digest])
        for record in records
        if record.split == "train" and record.digest in held_out
    ]


def _decide_by_digest(records: Sequence[TrainingImage], given: Mapping[str, str]) -> dict[str, str]:
    """Digest → split of the images with these bytes, where one of them has a given split.

    Held out wins, so that training never sees a held-out image.
    """
    sides: dict[str, str] = {}
    for record in records:
        side = given.get(record.image_id)
        if side and sides.get(record.digest) != "val":
            sides[record.digest] = side
    return sides


def _group_copies(records: Sequence[TrainingImage]) -> list[list[TrainingImage]]:
    """Images of the same bytes together, in an order that that of the records does not change."""
    groups: defaultdict[str, list[TrainingImage]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.image_id):
        groups[record.digest].append(record)
    return list(groups.values())


def _stratify(groups: Sequence[list[TrainingImage]]) -> dict[str, list[list[TrainingImage]]]:
    """Strata by name; a group of copies goes where its first image belongs."""
    unknown = [group for group in groups if not (group[0].source or group[0].modality)]
    counts = np.array([group[0].n_cells for group in unknown], np.int64)
    limits: Any = (
        np.quantile(counts, np.arange(1, _N_SIZE_CLASSES) / _N_SIZE_CLASSES) if unknown else []
    )
    strata: defaultdict[str, list[list[TrainingImage]]] = defaultdict(list)
    for group in groups:
        first = group[0]
        kind = f"{first.source}\0{first.modality}"
        if kind == "\0":
            kind = f"cells\0{int(np.searchsorted(limits, first.n_cells))}"
        strata[f"{LABELLED_ROLES.index(first.role)}\0{kind}"].append(group)
    return dict(strata)


def _draw(
    strata: Mapping[str, list[list[TrainingImage]]], hold_out: float, seed: int
) -> list[list[TrainingImage]]:
    """Groups of copies to hold out, drawn from each stratum."""
    chosen = []
    quotas = _share_out({name: len(groups) for name, groups in strata.items()}, hold_out)
    for name, groups in strata.items():
        # A generator per stratum: other strata do not change this one's order.
        rng = np.random.default_rng((seed, zlib.crc32(encode_text(name))))
        chosen += [groups[i] for i in rng.permutation(len(groups))[: quotas[name]]]
    return chosen


def _share_out(sizes: Mapping[str, int], share: float) -> dict[str, int]:
    """Stratum → groups to hold out, by largest remainders; ties go to the larger one, then by name.

    No stratum gives its last group.
    """
    quotas = {name: int(size * share + _ROUNDING) for name, size in sizes.items()}
    rest = round(sum(sizes.values()) * share) - sum(quotas.values())
    order = sorted(
        (name for name in sizes if quotas[name] + 1 < sizes[name]),
        key=lambda name: (quotas[name] - sizes[name] * share, -sizes[name], name),
    )
    for name in order[: max(0, rest)]:
        quotas[name] += 1
    return quotas
