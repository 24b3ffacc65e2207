"""What is exported of a checkpoint: itself, or the model with fewer key/value heads."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.config.export import ExportConfig, VerifyConfig
from edgetiny.console import Reporter
from edgetiny.data.windows import spread_windows
from edgetiny.errors import ArtefactError, ConfigError
from edgetiny.export.calibration import calibration_tokens
from edgetiny.gqa import Merge, convert, window_length
from edgetiny.gqa.pool import check_groups

# As many as `edgetiny gqa` reads, so that both make the same weights.
_CALIBRATION_TOKENS = 32_768


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The model that an export is compared with.

    merge: None if it is the checkpoint's own. text_sha256: of the calibration windows of a merge.
    """

    shape: ModelConfig
    tensors: Mapping[str, Tensor]
    merge: Merge | None = None
    text_sha256: str | None = None

    def facts(self) -> dict[str, Any]:
        """Return the manifest's keys: what it takes to make this model again."""
        merge = self.merge
        return {
            "gqa_groups": None if merge is None else merge.groups,
            "gqa_grouping": None if merge is None else merge.grouping,
            "gqa_pool": None if merge is None else merge.pool,
            "gqa_text_sha256": self.text_sha256,
        }


def merge_of(config: ExportConfig) -> Merge | None:
    """Return the merge that the settings ask for."""
    if config.gqa_groups is None:
        return None
    return Merge(
        groups=config.gqa_groups,
        grouping=config.gqa_grouping or "adjacent",
        pool=config.gqa_pool or "mean",
    )


def merged_shape(checkpoint: Checkpoint, merge: Merge | None) -> ModelConfig:
    """Return the shape that a merge leaves. Raises ConfigError if its groups do not divide."""
    if merge is None:
        return checkpoint.config
    check_groups(checkpoint, merge.groups)
    return replace(checkpoint.config, num_key_value_heads=merge.groups)


def reads_text(checkpoint: Checkpoint, merge: Merge | None) -> bool:
    """Whether a merge looks at text: as many groups as heads change nothing."""
    is_merged = merge is not None and merge.groups != checkpoint.config.num_key_value_heads
    return is_merged and merge is not None and merge.needs_text


def source_of(
    checkpoint: Checkpoint, merge: Merge | None, config: ExportConfig | VerifyConfig,
    reporter: Reporter,
) -> Source:  # fmt: skip
    """Return the model to export. Raises ConfigError if text is missing that the merge needs."""
    if merge is None:
        return Source(shape=checkpoint.config, tensors=checkpoint.state_dict())
    shape = merged_shape(checkpoint, merge)
    if not reads_text(checkpoint, merge):
        return Source(shape=shape, tensors=convert(checkpoint, merge).tensors, merge=merge)
    if config.data is None and config.calibration_text is None:
        raise ConfigError(
            f"merging heads by {merge.grouping} grouping and {merge.pool} pooling looks at text:"
            " give --data SHARDS or --calibration-text FILE"
        )
    tokens = calibration_tokens(checkpoint, config.data, config.calibration_text)
    windows = spread_windows(tokens, _CALIBRATION_TOKENS, window_length(checkpoint))
    made = convert(checkpoint, merge, windows, reporter)
    digest = hashlib.sha256(windows.numpy().tobytes()).hexdigest()
    return Source(shape=shape, tensors=made.tensors, merge=merge, text_sha256=digest)


def source_again(
    checkpoint: Checkpoint, manifest: Mapping[str, Any], config: VerifyConfig, reporter: Reporter
) -> Source:
    """Return the model that an artefact was exported from.

    Raises ConfigError for text that is missing or that nothing reads, ArtefactError for other text
    than the export read.
    """
    merge = None
    if manifest["gqa_groups"] is not None:
        merge = Merge(
            groups=manifest["gqa_groups"],
            grouping=manifest.get("gqa_grouping", "adjacent"),
            pool=manifest.get("gqa_pool", "mean"),
        )
    if config.calibration_text is not None and not reads_text(checkpoint, merge):
        raise ConfigError(
            "--calibration-text is for artefacts whose heads were merged by text; leave it out"
        )
    source = source_of(checkpoint, merge, config, reporter)
    if source.text_sha256 != manifest.get("gqa_text_sha256"):
        raise ArtefactError(
            f"the heads of {config.artefact} were merged by another text than the one given;"
            " give the --data or --calibration-text of its export"
        )
    return source
