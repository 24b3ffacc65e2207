"""`edgetiny tokenizer report`: what each size of vocabulary costs and saves, and which to take."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetiny.config.tokenizer import TokenizerReportConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.errors import ConfigError, DataError
from edgetiny.files import atomic_file, read_json, refuse_existing
from edgetiny.text import read_documents
from edgetiny.tokenizer.always_kept import always_kept
from edgetiny.tokenizer.count import count_tokens
from edgetiny.tokenizer.counts import Occurrences, TokenCounts, counts_of
from edgetiny.tokenizer.growth import (
    fallback_share,
    growth_of_all,
    growth_rows,
    warn_of_uncovered_scripts,
)
from edgetiny.tokenizer.recommend import Recommendation, recommend
from edgetiny.tokenizer.report_page import render
from edgetiny.tokenizer.rows import padded
from edgetiny.tokenizer.sample import Sample
from edgetiny.tokenizer.select import coverage_curve
from edgetiny.tokenizer.shape import Shape
from edgetiny.tokenizer.source import Source, open_source
from edgetiny.tokenizer.trial import Trial, Trials

SCHEMA_VERSION = 1
_RESULT_VERSION = 1
_ROUND_SIZES = (
    *(500, 1_000, 2_000, 4_000, 8_000, 16_000, 24_000, 32_000),
    *(48_000, 64_000, 72_000, 96_000, 128_000, 192_000),
)
# A source is seldom wanted at less than this part of its size.
_SMALLEST_PART = 1 / 20
_CURVE_POINTS = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerReport:
    """Everything that the report shows; `document()` is its JSON."""

    source: Source
    counts: TokenCounts
    trials: Trials
    shape: Shape
    sizes: Sequence[Trial]
    recommendation: Recommendation
    fallback: dict[str, float]
    tok_s: float | None

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "tokenizer": self.facts(),
            "model": self.shape.name,
            "recommendation": self.recommendation.summary(),
            "sizes": self.size_rows(),
            "groups": [row for trial in self.sizes for row in self.group_rows(trial)],
            "sources": self.source_rows(),
            "coverage_curve": self.coverage_rows(),
        }

    def summary(self) -> dict[str, Any]:
        """Return what the terminal shows: the recommendation and a row for each size."""
        found = self.recommendation
        texts = [*found.reasons, *found.advice]
        return {
            "recommended_vocab_size": "none" if found.size is None else found.size,
            "because": "; ".join(texts),
            "model": self.shape.name,
            "tokens_counted": self.counts.total,
            "now": {"vocab_size": len(self.trials.counts), **self._shares(self._source_rows)},
            "sources": self.source_rows(),
            "sizes": self.size_rows(),
            "groups": [row for trial in self.sizes for row in self.group_rows(trial)],
        }

    def facts(self) -> dict[str, Any]:
        """Return what the source is, and how much text was counted."""
        tokenizer = self.source.tokenizer
        return {
            "path": str(tokenizer.path),
            "kind": tokenizer.kind,
            "sha256": tokenizer.sha256,
            "vocab_size": tokenizer.vocab_size,
            "mandatory": len(self.trials.mandatory),
            "documents": self.counts.documents,
            "bytes": self.counts.bytes,
            "tokens": self.counts.total,
            **self._shares(self._source_rows),
        }

    def source_rows(self) -> list[dict[str, Any]]:
        """Return a row per group of the text counted, with the tokenizer as it is."""
        return [
            row | {"parts_of_characters_or_unknown": self.fallback[row["group"]]}
            for row in self.counts.rows()
        ]

    def size_rows(self) -> list[dict[str, Any]]:
        """Return a row for each size: coverage, growth, share of embedding and head."""
        rows = []
        for trial in self.sizes:
            growth = growth_of_all(trial.growth)
            row = {
                "vocab_size": trial.pieces,
                "coverage": trial.coverage,
                "token_growth": growth.share,
                "worst_growth": trial.worst_growth,
            }
            rows.append(row | self._shares(padded(trial.pieces)))
        return rows

    @property
    def _source_rows(self) -> int:
        checkpoint = self.source.checkpoint
        return len(self.trials.counts) if checkpoint is None else checkpoint.config.vocab_size

    def _shares(self, n_rows: int) -> dict[str, float]:
        return {
            "embedding_and_head_untied": self.shape.share(n_rows, tied=False),
            "embedding_and_head_tied": self.shape.share(n_rows, tied=True),
        }

    def group_rows(self, trial: Trial) -> list[dict[str, Any]]:
        """Return a row per group of the sample at one size; bytes a second where known."""
        rows = [{"vocab_size": trial.pieces} | row for row in growth_rows(trial.growth)]
        if self.tok_s is not None:
            for row in rows:
                for when in ("before", "after"):
                    row[f"bytes_per_s_{when}"] = self.tok_s / row[f"tokens_per_byte_{when}"]
        return rows

    def coverage_rows(self) -> list[dict[str, float]]:
        """Return points of rows and coverage: the most frequent alone, and with their parts."""
        n_pieces = len(self.trials.counts)
        sizes = np.unique(np.geomspace(max(1, n_pieces / 256), n_pieces, _CURVE_POINTS).astype(int))
        alone = accumulated(self.trials.counts)
        with_parts = coverage_curve(
            self.trials.vocabulary, self.trials.counts, self.trials.gains, sizes.tolist()
        )
        closed = {point["rows"]: point["coverage"] for point in with_parts}
        points = sorted({*sizes.tolist(), *closed})
        return [
            {"rows": rows, "most_frequent": float(alone[int(rows) - 1])}
            | ({"as_compress_chooses": closed[rows]} if rows in closed else {})
            for rows in points
        ]


def run(config: TokenizerReportConfig, reporter: Reporter = QUIET) -> TokenizerReport:
    """Measure sizes of vocabulary on text, recommend one, and write a page if asked for.

    The text is read once; growth is measured by encoding a sample of up to 4 MB a group again with
    each compact tokenizer. Raises DataError, CheckpointError or ConfigError.
    """
    if config.out is not None:
        refuse_existing(config.out, overwrite=config.overwrite)
    source = open_source(config.source)
    shape = _shape(config, source)
    tok_s = _tokens_per_s(config)
    counts, sample = _read(config, source, reporter)
    warn_of_uncovered_scripts(source.tokenizer, counts, reporter)
    mandatory = source.special_ids | always_kept(source.tokenizer)
    trials = Trials(source.tokenizer, counts, mandatory, sample)
    sizes = []
    wanted = _sizes(config, trials)
    with reporter.task("trying sizes", len(wanted)) as task:
        for size in wanted:
            sizes.append(trials.at(size))
            task.advance(1, f"{size:,} pieces")
    report = TokenizerReport(
        source=source,
        counts=counts,
        trials=trials,
        shape=shape,
        sizes=sizes,
        recommendation=recommend(trials, shape, config.max_growth),
        fallback=fallback_share(source.tokenizer, counts),
        tok_s=tok_s,
    )
    if config.out is not None:
        with atomic_file(config.out) as temporary:
            temporary.write_text(render(report.document()), encoding="utf-8")
    return report


def accumulated(counts: Occurrences) -> np.typing.NDArray[np.float64]:
    """Return the share that the 1, 2, ... most frequent tokens cover (the paper's Figure 2)."""
    ordered = np.sort(counts)[::-1]
    shares: np.typing.NDArray[np.float64] = np.cumsum(ordered) / max(1, int(ordered.sum()))
    return shares


def _shape(config: TokenizerReportConfig, source: Source) -> Shape:
    given = (config.hidden_size, config.intermediate_size, config.num_hidden_layers)
    if source.checkpoint is None:
        return Shape.of_design(*given, tied=config.tie_word_embeddings)
    if any(size is not None for size in given) or config.tie_word_embeddings:
        raise ConfigError(
            f"{config.source} is a checkpoint and has a shape; --hidden-size and the like are for"
            " a tokenizer alone"
        )
    return Shape.of_model(source.checkpoint.config, f"the model {config.source}")


def _read(
    config: TokenizerReportConfig, source: Source, reporter: Reporter
) -> tuple[TokenCounts, Sample]:
    sample = Sample()
    if config.counts is not None:
        counts = counts_of(config.counts, source.tokenizer)
        for document in read_documents(config.text, stdin=config.text_format):
            sample.add(document)
        return counts, sample
    counts = count_tokens(
        source.tokenizer,
        config.text,
        processes=config.processes,
        reporter=reporter,
        stdin=config.text_format,
        watch=sample.add,
    )
    return counts, sample


def _sizes(config: TokenizerReportConfig, trials: Trials) -> list[int]:
    """Return the sizes to show: as asked, or round ones, or some that are possible."""
    if config.vocab_size:
        return sorted(set(config.vocab_size))
    possible, n_pieces = trials.sizes, len(trials.counts)
    low = max(possible[0], n_pieces * _SMALLEST_PART)
    found = [size for size in _ROUND_SIZES if low <= size <= possible[-1]]
    if len(found) >= 3:
        return found
    step = max(1, len(possible) // 4)
    return list(possible[::step])


def _tokens_per_s(config: TokenizerReportConfig) -> float | None:
    if config.result is None:
        return config.tok_s
    if not config.result.is_file():
        raise DataError(f"{config.result} does not exist; edgetiny bench --out writes results")
    result = read_json(config.result, schema_version=_RESULT_VERSION)
    try:
        return max(float(row["decode_tok_per_s_summed"]["median"]) for row in result["rows"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{config.result} is no bench result: {error}") from error
