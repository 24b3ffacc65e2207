"""A checkpoint's tensors with fewer key/value heads, whichever way they are merged."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.config.model import Grouping, Pool
from edgetiny.console import QUIET, Reporter
from edgetiny.gqa.calibrate import LayerReport, align, find_groupings
from edgetiny.gqa.pool import PlainPool, to_gqa


@dataclass(frozen=True, kw_only=True, slots=True)
class Merge:
    """Which heads share a key/value head, and how it comes of theirs. seed: of pool "random"."""

    groups: int
    grouping: Grouping = "adjacent"
    pool: Pool = "mean"
    seed: int = 0

    @property
    def needs_text(self) -> bool:
        """Whether the conversion looks at text."""
        return self.grouping == "similarity" or self.pool == "aligned"


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """A model with fewer key/value heads. reports: of each layer; none for plain neighbours."""

    shape: ModelConfig
    tensors: Mapping[str, Tensor]
    reports: list[LayerReport]


def convert(
    source: Checkpoint, merge: Merge, windows: Tensor | None = None, reporter: Reporter = QUIET
) -> Converted:
    """Return the model with `merge.groups` key/value heads.

    windows: calibration text (windows, tokens), for a merge that needs it.
    Raises ConfigError if the groups do not divide the heads.
    """
    groups = merge.groups
    if groups == source.config.num_key_value_heads:
        return Converted(shape=source.config, tensors=source.state_dict(), reports=[])
    if not merge.needs_text:
        shape, tensors = to_gqa(source, groups, pool=_plain(merge), seed=merge.seed)
        return Converted(shape=shape, tensors=tensors, reports=[])
    assert windows is not None
    with reporter.task("merging heads, layer by layer", source.config.num_hidden_layers) as task:
        if merge.pool == "aligned":
            by_similarity = merge.grouping == "similarity"
            made, reports = align(source, groups, windows, task, by_similarity=by_similarity)
            return Converted(
                shape=replace(source.config, num_key_value_heads=groups),
                tensors=source.state_dict() | made,
                reports=reports,
            )
        reports = find_groupings(source, groups, windows, task)
    groupings = [each.grouping for each in reports]
    shape, tensors = to_gqa(
        source, groups, pool=_plain(merge), groupings=groupings, seed=merge.seed
    )
    return Converted(shape=shape, tensors=tensors, reports=reports)


def _plain(merge: Merge) -> PlainPool:
    assert merge.pool != "aligned"
    return merge.pool
