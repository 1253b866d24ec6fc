"""A recipe: everything that a training run depends on besides its images."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any, Final, Literal

from mediar_infer.errors import UsageError
from mediar_infer.network.architecture import ENCODERS, Architecture
from mediar_infer.training.augmentation.settings import Augmentation
from mediar_infer.training.stages.stage_config import StageConfig, check

Network = Literal[
    "mediar_former",
    "mediar_former_one_head",
    "mediar_former_reconstructing",
    "unet",
    "unetr",
    "swin_unetr",
]


_MAX_SEED: Final = 2**32 - 1
"""The seed of a step is about 10⁹ times that of the recipe, and must fit into 64 bits."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The network that is trained."""

    network: Network = "mediar_former"
    """Kind of network; inference loads ``mediar_former`` only."""
    encoder: str = "mit_b5"
    """``mit_b0`` … ``mit_b5``."""
    encoder_channels: tuple[int, ...] = ()
    """Widths of the four encoder stages instead of those of ``encoder``; multiples of the numbers
    of heads, 1, 2, 5 and 8."""
    encoder_depths: tuple[int, ...] = ()
    """Blocks of the four encoder stages instead of those of ``encoder``."""
    decoder_channels: tuple[int, ...] = (1024, 512, 256, 128, 64)
    """Widths of the five decoder blocks."""
    pab_channels: int = 256
    """Width of keys and queries of the position-wise attention block."""
    drop_path: float = 0.1
    """Stochastic depth rate of the last encoder block."""
    encoder_weights: str = ""
    """For ``start = "encoder"``: ``imagenet`` (downloaded) or a file; empty if no stage uses it."""

    def __post_init__(self) -> None:
        check(
            self.encoder in ENCODERS,
            f"encoder: found {self.encoder!r}, expected one of {', '.join(ENCODERS)}",
        )
        for name in ("encoder_channels", "encoder_depths"):
            value = getattr(self, name)
            check(
                len(value) in (0, 4) and all(number > 0 for number in value),
                f"{name}: found {list(value)}, expected four positive numbers or none",
            )
        check(
            len(self.decoder_channels) == 5 and min(self.decoder_channels) >= 2,
            f"decoder_channels: found {list(self.decoder_channels)}, expected five of at least 2",
        )
        check(self.pab_channels > 0, f"pab_channels: found {self.pab_channels}, expected 1 or more")
        check(
            0 <= self.drop_path < 1,
            f"drop_path: found {self.drop_path}, expected at least 0 and less than 1",
        )

    @property
    def architecture(self) -> Architecture:
        """Sizes of the network."""
        channels, depths = ENCODERS[self.encoder]
        return Architecture(
            self.encoder_channels or channels,
            self.encoder_depths or depths,
            self.decoder_channels,
            self.pab_channels,
        )

    def with_architecture(self, architecture: Architecture) -> "ModelConfig":
        """Copy for a MEDIAR-Former of this architecture."""
        return replace(
            self,
            network="mediar_former",
            encoder_channels=architecture.encoder_channels,
            encoder_depths=architecture.depths,
            decoder_channels=architecture.decoder_channels,
            pab_channels=architecture.pab_channels,
        )


@dataclass(frozen=True, slots=True)
class DataConfig:
    """How images are loaded; affects speed, not results."""

    cache_gib: float = 4.0
    """Images kept in memory, in GiB."""
    workers: int = 0
    """Processes that make batches; 0 is one thread beside the training."""

    def __post_init__(self) -> None:
        check(self.cache_gib >= 0, f"cache_gib: found {self.cache_gib}, expected 0 or more")
        check(self.workers >= 0, f"workers: found {self.workers}, expected 0 or more")

    @property
    def cache_bytes(self) -> int:
        """Images kept in memory, in bytes."""
        return int(self.cache_gib * 2**30)


@dataclass(frozen=True, slots=True)
class Blend:
    """A weight file that is the average of two stages' results."""

    name: str
    """The table ``[blends.NAME]``, and the name of the file."""
    first: str
    """Stage that gets the weight ``1 - share``."""
    second: str
    """Stage that gets the weight ``share``."""
    share: float
    """Weight of the second stage, in [0, 1]."""

    def __post_init__(self) -> None:
        check(0 <= self.share <= 1, f"share: found {self.share}, expected 0 to 1")


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    """Modality discovery, for stages with amplified sampling."""

    from_stage: str = ""
    """Stage whose encoder embeds the target images; empty if no stage is amplified."""
    n_clusters: int = 40
    """Number of clusters; fewer if fewer images differ."""

    def __post_init__(self) -> None:
        check(self.n_clusters >= 1, f"n_clusters: found {self.n_clusters}, expected 1 or more")


@dataclass(frozen=True, slots=True)
class RelabellingConfig:
    """Labelling consistency, for stages with relabelled targets."""

    from_stage: str = ""
    """Stage whose model predicts the target images; empty if no stage is relabelled."""
    min_f1: float = 0.5
    """Smallest F1 at IoU 0.5 of labels and prediction; labels that agree less are replaced."""

    def __post_init__(self) -> None:
        check(0 <= self.min_f1 <= 1, f"min_f1: found {self.min_f1}, expected 0 to 1")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A training run: network, images, stages in order."""

    name: str
    """Shown in logs."""
    seed: int
    """Determines start weights, batches and stochastic depth; at most 4,294,967,295."""
    model: ModelConfig
    """The network of all stages."""
    data: DataConfig
    """Loading."""
    stages: tuple[StageConfig, ...]
    """In training order."""
    blends: tuple[Blend, ...] = ()
    """Averages of stages, made at the end."""
    discovery: DiscoveryConfig = field(default_factory=DiscoveryConfig)
    """How clusters are found."""
    relabelling: RelabellingConfig = field(default_factory=RelabellingConfig)
    """How targets are relabelled."""

    def __post_init__(self) -> None:
        check(0 <= self.seed <= _MAX_SEED, f"seed: found {self.seed}, expected 0 to {_MAX_SEED:,}")
        check(len(self.stages) > 0, "stages: found none, expected [stages.NAME]")
        earlier: list[str] = []
        for stage in self.stages:
            kind, _, name = stage.start.partition(":")
            check(
                kind != "stage" or name in earlier,
                f"stages.{stage.name}.start: found {stage.start!r}, expected an earlier stage"
                f" ({', '.join(earlier) or 'there is none'})",
            )
            check(
                stage.start != "encoder" or self.model.encoder_weights != "",
                f"stages.{stage.name}.start: found 'encoder' without [model] encoder_weights,"
                " expected imagenet or a file",
            )
            earlier.append(stage.name)
        named = [stage for blend in self.blends for stage in (blend.first, blend.second)]
        for name in (*named, self.discovery.from_stage, self.relabelling.from_stage):
            check(
                name == "" or name in earlier,
                f"found stage {name!r} in blends, discovery or relabelling, expected one of"
                f" {', '.join(earlier)}",
            )

    def stage(self, name: str) -> StageConfig:
        """Return a stage by name.

        Raises:
            UsageError: if it does not exist.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UsageError(
            f"recipe {self.name}: found no stage {name!r}, expected one of"
            f" {', '.join(stage.name for stage in self.stages)}"
        )

    def scaled(self, factor: float) -> "Recipe":
        """Copy whose stages are ``factor`` times as long.

        Raises:
            UsageError: if the factor is not positive.
        """
        check(factor > 0, f"found scale {factor}, expected above 0")
        if factor == 1:
            return self
        return replace(self, stages=tuple(stage.scaled(factor) for stage in self.stages))

    def to_plain(self) -> dict[str, Any]:
        """Everything that the result depends on, as JSON represents it; without ``data``."""
        plain = _to_plain(asdict(self))
        del plain["data"]
        return dict(plain)


def plain_defaults() -> dict[str, dict[str, Any]]:
    """Settings that a recipe may leave out, of its model and of a stage, as JSON represents them.

    A setting that is new in a version is off, or as before, by default.
    """
    found: dict[str, dict[str, Any]] = {}
    for section, kind in (("model", ModelConfig), ("stage", StageConfig)):
        found[section] = {
            each.name: _to_plain(each.default)
            for each in fields(kind)
            if each.default is not MISSING
        }
    found["stage"]["augmentation"] = _to_plain(asdict(Augmentation()))
    return found


def _to_plain(value: Any) -> Any:  # noqa: ANN401 (any value of a recipe)
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_to_plain(item) for item in value]
    return value
