"""`edgetiny tokenizer compress`: fewer pieces, and only their rows of embedding and head."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.tokenizer import TokenizerCompressConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.errors import ConfigError
from edgetiny.files import atomic_folder, refuse_existing, writing
from edgetiny.tokenizer.always_kept import always_kept
from edgetiny.tokenizer.compact import write_compact
from edgetiny.tokenizer.count import count_tokens
from edgetiny.tokenizer.counts import TokenCounts, counts_of
from edgetiny.tokenizer.growth import (
    Growth,
    growth_by_group,
    growth_of_all,
    growth_rows,
    warn_of_uncovered_scripts,
)
from edgetiny.tokenizer.locate import copy_tokenizer
from edgetiny.tokenizer.recommend import MAX_GROWTH, recommend
from edgetiny.tokenizer.retrain import write_retrained
from edgetiny.tokenizer.rows import RowMap, write_remade_checkpoint
from edgetiny.tokenizer.sample import Sample
from edgetiny.tokenizer.select import coverage_curve
from edgetiny.tokenizer.shape import shape_of
from edgetiny.tokenizer.source import Source, kept_ids, open_source
from edgetiny.tokenizer.tokenizer import Tokenizer
from edgetiny.tokenizer.trial import Trials


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerCompressResult:
    """What was kept, how much of the text it covers, and what the loss costs in tokens."""

    path: Path
    source_rows: int
    pieces: int
    rows: int
    """Rows of the embedding, padding included; as many as pieces without a checkpoint."""
    mandatory_rows: int
    parameters_removed: int
    coverage: float
    """Share of the token occurrences of the source tokenizer whose piece is kept."""
    coverage_curve: list[dict[str, float]]
    """Points of {rows, coverage}, each row count chosen as this one was."""
    growth: Mapping[str, Growth]
    """By group of the text; empty without text."""

    def summary(self) -> dict[str, Any]:
        """Return the measures, for `console.show`; the last two fields are lists of rows."""
        facts: dict[str, Any] = {
            "tokenizer": str(self.path),
            "source_rows": self.source_rows,
            "pieces": self.pieces,
            "rows": self.rows,
            "mandatory_rows": self.mandatory_rows,
            "parameters_removed": self.parameters_removed,
            "coverage": self.coverage,
        }
        if self.growth:
            facts |= growth_of_all(self.growth).summary()
            facts["groups"] = growth_rows(self.growth)
        return facts | {"coverage_curve": self.coverage_curve}


def run(config: TokenizerCompressConfig, reporter: Reporter = QUIET) -> TokenizerCompressResult:
    """Write the source with fewer pieces: those that the text needs most, or new ones.

    A checkpoint becomes a checkpoint whose embedding and head are cut to the kept rows and whose
    special ids are rewritten; a tokenizer becomes a tokenizer. `vocab_map.json` says which old id
    each new one was. Raises DataError or CheckpointError for a source that cannot be cut,
    ConfigError for an impossible size.
    """
    refuse_existing(config.out, overwrite=config.overwrite)
    source = open_source(config.source)
    sample = Sample() if config.auto else None
    before = _count(source.tokenizer, config, reporter, sample)
    chosen_by = before if config.counts is None else counts_of(config.counts, source.tokenizer)
    assert chosen_by is not None
    warn_of_uncovered_scripts(source.tokenizer, chosen_by, reporter)
    trials = Trials(source.tokenizer, chosen_by, _mandatory(source, config), sample)
    with (
        tempfile.TemporaryDirectory(prefix="edgetiny-") as staging,
        writing(Path(staging)),
    ):
        row_map = _write_tokenizer(Path(staging), config, source, trials, reporter)
        compact = Tokenizer.open(Path(staging))
        after = _count(compact, config, reporter)
        growth = growth_by_group(before, after) if before and after else {}
        result = _result(config, source, trials, row_map, growth)
        _write(config, source, compact, row_map, result)
    return result


def _write_tokenizer(
    folder: Path,
    config: TokenizerCompressConfig,
    source: Source,
    trials: Trials,
    reporter: Reporter,
) -> RowMap:
    """Write the new tokenizer into a folder; return which old rows its rows come from."""
    size = _size(config, source, trials, reporter)
    if config.retrain:
        return RowMap(write_retrained(folder, source, config.text, size, reporter))
    kept = trials.kept(size)
    why_no_json = write_compact(folder, source.tokenizer, kept)
    if why_no_json is not None:
        reporter.say(f"without tokenizer.json: {why_no_json}")
    return RowMap.of_kept(kept)


def _count(
    tokenizer: Tokenizer,
    config: TokenizerCompressConfig,
    reporter: Reporter,
    sample: Sample | None = None,
) -> TokenCounts | None:
    if not config.text:
        return None
    watch = None if sample is None else sample.add
    return count_tokens(
        tokenizer, config.text, processes=config.processes, reporter=reporter, watch=watch
    )


def _mandatory(source: Source, config: TokenizerCompressConfig) -> set[int]:
    asked = set() if config.keep is None else kept_ids(config.keep, source.tokenizer)
    return source.special_ids | always_kept(source.tokenizer) | asked


def _size(
    config: TokenizerCompressConfig, source: Source, trials: Trials, reporter: Reporter
) -> int:
    if config.vocab_size is not None:
        return config.vocab_size
    if config.coverage is not None:
        return trials.fewest_covering(config.coverage)
    bound = MAX_GROWTH if config.max_growth is None else config.max_growth
    recommendation = recommend(trials, shape_of(source), bound)
    if recommendation.size is None:
        why = "; ".join((*recommendation.reasons, *recommendation.advice))
        raise ConfigError(f"--auto finds no size to recommend: {why}; or give --vocab-size")
    for line in (*recommendation.reasons, *recommendation.advice):
        reporter.say(line)
    return recommendation.size


def _result(
    config: TokenizerCompressConfig,
    source: Source,
    trials: Trials,
    row_map: RowMap,
    growth: Mapping[str, Growth],
) -> TokenizerCompressResult:
    n_pieces = len(row_map.old_ids)
    return TokenizerCompressResult(
        path=config.out,
        source_rows=source.tokenizer.vocab_size,
        pieces=n_pieces,
        rows=n_pieces if source.checkpoint is None else row_map.n_rows,
        mandatory_rows=len(trials.mandatory),
        parameters_removed=_parameters_removed(source.checkpoint, row_map.n_rows),
        coverage=trials.coverage(sorted(row_map.new)),
        coverage_curve=coverage_curve(trials.vocabulary, trials.counts, trials.gains),
        growth=growth,
    )


def _write(
    config: TokenizerCompressConfig,
    source: Source,
    compact: Tokenizer,
    row_map: RowMap,
    result: TokenizerCompressResult,
) -> None:
    with atomic_folder(config.out, overwrite=config.overwrite) as folder:
        if source.checkpoint is None:
            copy_tokenizer(compact.path, folder)
            return
        write_remade_checkpoint(
            folder,
            source,
            compact,
            row_map,
            stage=config.stage,
            settings=config.as_json(),
            metrics=_scalars(result.summary()),
        )


def _parameters_removed(checkpoint: Checkpoint | None, n_rows: int) -> int:
    if checkpoint is None:
        return 0
    config = checkpoint.config
    n_tables = 1 if config.tie_word_embeddings else 2
    return n_tables * config.hidden_size * (config.vocab_size - n_rows)


def _scalars(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if isinstance(value, int | float)}
