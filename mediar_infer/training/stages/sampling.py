"""Which images a step sees: amplified, balanced or plain epochs, and replayed memory.

The images of a step follow from the seed and the step alone, so a resumed run, or several
processes, draw what one uninterrupted process would draw.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mediar_infer.errors import DataError, UsageError, list_some
from mediar_infer.training.augmentation.loader import Draw
from mediar_infer.training.data.csv_files import read_rows
from mediar_infer.training.data.table import TrainingImage
from mediar_infer.training.stages.stage_config import StageConfig

_MEMORY_SEED = 1
_LISTED = 4
"""Names that an error lists."""


def read_clusters(path: Path) -> dict[str, int]:
    """Read a cluster table.

    Args:
        path: CSV with the columns ``image_id`` and ``cluster``.

    Returns:
        Image → number of its cluster.

    Raises:
        UsageError: if it is missing.
        DataError: if it lacks a column or holds something other than whole numbers.
    """
    clusters = {}
    expected = "the columns image_id and cluster of a table made by 'discover'"
    for place, row in read_rows(path, ("image_id", "cluster"), expected):
        try:
            clusters[row["image_id"]] = int(row["cluster"])
        except ValueError as error:
            raise DataError(
                f"{place}, column cluster: found {row['cluster']!r}, expected a whole number;"
                " create the table with 'discover'"
            ) from error
    return clusters


def amplify(
    records: Sequence[TrainingImage], clusters: Mapping[str, int], min_size: int
) -> list[int]:
    """Repeat the images of small clusters: one epoch of amplified sampling.

    Args:
        records: images of the epoch.
        clusters: image → cluster.
        min_size: clusters with fewer images are repeated cyclically up to it, as released.

    Returns:
        Indices into ``records``, cluster by cluster; each at least once.

    Raises:
        UsageError: if an image has no cluster.
    """
    missing = [record.image_id for record in records if record.image_id not in clusters]
    if missing:
        raise UsageError(
            f"found no cluster for {len(missing)} images ({list_some(missing, _LISTED)}), expected"
            " one for every image; run 'discover' on this table"
        )
    members: dict[int, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        members[clusters[record.image_id]].append(index)
    return [
        indices[i % len(indices)]
        for _, indices in sorted(members.items())
        for i in range(max(min_size, len(indices)))
    ]


def balance(
    records: Sequence[TrainingImage],
    share_power: float = 0.5,
    factors: Mapping[str, float] | None = None,
) -> tuple[float, ...]:
    """Balance the modalities: a kind is drawn in proportion to (number of its images)^share_power.

    A kind is a modality of one source, so three images of a rare source are not drowned out by
    seventy of a common one with the same modality name.

    Args:
        records: images to draw from, at least one.
        share_power: 0 draws all kinds alike, 1 all images.
        factors: source → how many times as often its images are drawn.

    Returns:
        One probability per image, summing to 1.

    Raises:
        UsageError: if the factors of all images are 0.
    """
    kinds = [(record.modality, record.source) for record in records]
    counts = Counter(kinds)
    weights = np.array(
        [counts[kind] ** (share_power - 1) * (factors or {}).get(kind[1], 1.0) for kind in kinds]
    )
    if not weights.any():
        sources = ", ".join(sorted({source for _, source in kinds}))
        raise UsageError(
            f"source_factors: found 0 for every source of the images to draw ({sources}), expected"
            " at least one above 0"
        )
    return tuple((weights / weights.sum()).tolist())


@dataclass(frozen=True, slots=True)
class Stream:
    """An endless order of images."""

    pool: tuple[int, ...]
    """Images of one epoch, repeated as often as they occur in it."""
    seed: int
    """Determines the order."""
    probabilities: tuple[float, ...] = ()
    """Draws at random with these probabilities; without them, epochs are shuffled passes."""

    def take(self, step: int, number: int) -> list[int]:
        """Return the images of a step.

        Args:
            step: 0, 1, 2, …
            number: images per step; the same for all steps.
        """
        if self.probabilities:
            rng = np.random.default_rng((self.seed, step))
            return [int(i) for i in rng.choice(self.pool, number, p=self.probabilities)]
        taken: list[int] = []
        position, size = step * number, len(self.pool)
        while len(taken) < number:
            epoch, offset = divmod(position + len(taken), size)
            order = np.random.default_rng((self.seed, epoch)).permutation(self.pool)
            taken += [int(i) for i in order[offset : offset + number - len(taken)]]
        return taken


@dataclass(frozen=True, slots=True)
class StepSampler:
    """Step → draws: fresh images first, then replayed ones; picklable."""

    fresh: Stream
    """Images of the stage's roles."""
    n_fresh: int
    """How many of them a batch holds."""
    memory: Stream | None
    """Images of the memory's roles."""
    n_memory: int
    """How many of them a batch holds."""
    excludes_boundary: tuple[bool, ...]
    """Per image: whether its cells lose their boundary pixels."""
    intensity: tuple[bool, ...]
    """Per image: whether its intensity is changed."""

    @property
    def epoch_size(self) -> int:
        """Fresh images per epoch."""
        return len(self.fresh.pool)

    def __call__(self, step: int) -> list[Draw]:
        """Return the draws of a step."""
        indices = self.fresh.take(step, self.n_fresh)
        if self.memory is not None:
            indices += self.memory.take(step, self.n_memory)
        return [
            Draw(
                index=index,
                excludes_boundary=self.excludes_boundary[index],
                intensity=self.intensity[index],
            )
            for index in indices
        ]


def build_sampler(
    records: Sequence[TrainingImage],
    config: StageConfig,
    seed: int,
    clusters: Mapping[str, int] | None = None,
) -> StepSampler:
    """Build the sampler of a stage.

    Args:
        records: training images; indices of the draws count in this list.
        config: settings of the stage.
        seed: seed of the stage.
        clusters: image → cluster, for amplified sampling.

    Raises:
        UsageError: if no image has one of the roles, or clusters are missing.
    """
    fresh = _indices(records, config, config.roles, "roles")
    if config.sampling == "amplified":
        if clusters is None:
            raise UsageError(
                f"stage {config.name}: found no clusters for amplified sampling, expected some; run"
                " 'discover' first"
            )
        pool = amplify([records[i] for i in fresh], clusters, config.amplify_to)
        stream = Stream(tuple(fresh[i] for i in pool), seed)
    else:
        stream = _stream(records, fresh, seed, config, is_balanced=config.sampling == "balanced")
    memory = None
    if config.memory_per_batch:
        kept = _indices(records, config, config.memory_roles, "memory_roles")
        is_balanced = config.memory_sampling == "balanced"
        memory = _stream(records, kept, seed + _MEMORY_SEED, config, is_balanced=is_balanced)
    return StepSampler(
        fresh=stream,
        n_fresh=config.fresh_per_batch,
        memory=memory,
        n_memory=config.memory_per_batch,
        excludes_boundary=tuple(record.role in config.excludes_boundary for record in records),
        intensity=tuple(
            record.role in config.intensity and record.source not in config.true_colour_sources
            for record in records
        ),
    )


def _stream(
    records: Sequence[TrainingImage],
    indices: Sequence[int],
    seed: int,
    config: StageConfig,
    *,
    is_balanced: bool,
) -> Stream:
    seen = [records[i] for i in indices]
    probabilities = (
        balance(seen, config.share_power, config.factor_of_source) if is_balanced else ()
    )
    return Stream(tuple(indices), seed, probabilities)


def _indices(
    records: Sequence[TrainingImage], config: StageConfig, roles: Sequence[str], key: str
) -> list[int]:
    found = [index for index, record in enumerate(records) if record.role in roles]
    if not found:
        raise UsageError(
            f"stage {config.name}: found no training image with one of the {key}"
            f" {', '.join(roles)}; expected at least one in the table; index your images with that"
            " --role, or add a converted or generated set"
            + (f" (not of {', '.join(config.exclude_sources)})" if config.exclude_sources else "")
        )
    return found
