"""`edgetiny tokenizer compress`: fewer pieces, and only their rows of embedding and head."""

import functools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgetiny.checkpoint import Checkpoint, LazyTensors, ModelConfig, write_checkpoint
from edgetiny.config.tokenizer import TokenizerCompressConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.errors import CheckpointError
from edgetiny.files import atomic_folder, refuse_existing
from edgetiny.tokenizer.compact import write_compact
from edgetiny.tokenizer.count import TokenCounts, count_tokens
from edgetiny.tokenizer.locate import copy_tokenizer
from edgetiny.tokenizer.select import coverage_curve, must_stay, select
from edgetiny.tokenizer.tokenizer import Tokenizer

_ROWS_BY_TOKEN = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerCompressResult:
    """What was kept, how much of the text it covers, and what the loss costs in tokens."""

    path: Path
    source_rows: int
    rows: int
    mandatory_rows: int
    coverage: float
    """Share of the token occurrences of the source tokenizer whose piece is kept."""
    coverage_curve: list[dict[str, float]]
    """Points of {rows, coverage}, each row count chosen as this one was."""
    bytes: int
    tokens_before: int
    tokens_after: int
    parameters_removed: int

    def summary(self) -> dict[str, Any]:
        """Return the measures, for `console.show`; the last field is a list of points."""
        return {
            "tokenizer": str(self.path),
            "source_rows": self.source_rows,
            "rows": self.rows,
            "mandatory_rows": self.mandatory_rows,
            "parameters_removed": self.parameters_removed,
            "bytes": self.bytes,
            "tokens_before": self.tokens_before,
            "tokens_after": self.tokens_after,
            "tokens_per_byte_before": self.tokens_before / self.bytes,
            "tokens_per_byte_after": self.tokens_after / self.bytes,
            "token_growth": self.tokens_after / self.tokens_before - 1,
            "coverage": self.coverage,
            "coverage_curve": self.coverage_curve,
        }


@dataclass(frozen=True, slots=True)
class _Source:
    """A tokenizer, and the checkpoint that it belongs to, if any."""

    tokenizer: Tokenizer
    checkpoint: Checkpoint | None

    @property
    def special_ids(self) -> set[int]:
        if self.checkpoint is None:
            return set()
        config = self.checkpoint.config
        ids = (config.bos_token_id, config.pad_token_id, *config.eos_token_ids)
        return {index for index in ids if index is not None}


def run(config: TokenizerCompressConfig, reporter: Reporter = QUIET) -> TokenizerCompressResult:
    """Write the source with exactly `vocab_size` pieces, chosen by how often the text needs them.

    A checkpoint becomes a checkpoint whose embedding and head are cut to the kept rows and whose
    special ids are rewritten; a tokenizer becomes a tokenizer. `vocab_map.json` says which old id
    each new one was. Raises DataError or CheckpointError for a source that cannot be cut,
    ConfigError for an impossible size.
    """
    refuse_existing(config.out, overwrite=config.overwrite)
    source = open_source(config.source)
    before = _count(source.tokenizer, config, reporter)
    vocabulary = source.tokenizer.vocabulary()
    gains = vocabulary.gains(before.by_id)
    kept = select(vocabulary, gains, config.vocab_size, source.special_ids)
    with tempfile.TemporaryDirectory(prefix="edgetiny-") as staging:
        write_compact(Path(staging), source.tokenizer, kept)
        compact = Tokenizer.open(Path(staging))
        after = _count(compact, config, reporter)
        result = TokenizerCompressResult(
            path=config.out,
            source_rows=source.tokenizer.vocab_size,
            rows=len(kept),
            mandatory_rows=len(must_stay(vocabulary, source.special_ids)),
            coverage=int(before.by_id[kept].sum()) / before.total,
            coverage_curve=coverage_curve(vocabulary, before.by_id, gains),
            bytes=before.bytes,
            tokens_before=before.total,
            tokens_after=after.total,
            parameters_removed=_parameters_removed(source.checkpoint, len(kept)),
        )
        with atomic_folder(config.out, overwrite=config.overwrite) as folder:
            if source.checkpoint is None:
                copy_tokenizer(compact.path, folder)
            else:
                _write_compact_checkpoint(folder, source.checkpoint, kept, compact, config, result)
    return result


def open_source(source: Path) -> _Source:
    """Open a checkpoint folder, an `hf:` reference, a tokenizer folder or a `.model` file.

    Raises DataError for another kind of tokenizer, CheckpointError if the vocabulary of the
    checkpoint is smaller than its tokenizer's or reaches beyond it into added tokens.
    """
    is_checkpoint = str(source).startswith("hf:") or (source / "config.json").is_file()
    checkpoint = Checkpoint.open(str(source)) if is_checkpoint else None
    tokenizer = Tokenizer.open(source if checkpoint is None else checkpoint.path)
    opened = _Source(tokenizer, checkpoint)
    if checkpoint is not None:
        n_rows, n_pieces = checkpoint.config.vocab_size, tokenizer.vocab_size
        if n_rows < n_pieces:
            raise CheckpointError(
                f"{checkpoint.path} has {n_rows:,} embedding rows but its tokenizer has"
                f" {n_pieces:,} pieces; the two do not belong together"
            )
        beyond = sorted(index for index in opened.special_ids if index >= n_pieces)
        if beyond:
            raise CheckpointError(
                f"{checkpoint.path}: the special id {beyond[0]} lies beyond the {n_pieces:,} pieces"
                " of tokenizer.model; added tokens cannot be kept, so make them pieces first"
            )
    return opened


def slice_rows(rows: Tensor, kept: Sequence[int]) -> Tensor:
    """Return the rows of kept ids: (old vocabulary, width) to (len(kept), width), same dtype."""
    return rows.index_select(0, torch.tensor(kept, dtype=torch.long))


def _count(
    tokenizer: Tokenizer, config: TokenizerCompressConfig, reporter: Reporter
) -> TokenCounts:
    return count_tokens(tokenizer, config.text, processes=config.processes, reporter=reporter)


def _write_compact_checkpoint(
    folder: Path,
    checkpoint: Checkpoint,
    kept: Sequence[int],
    compact: Tokenizer,
    config: TokenizerCompressConfig,
    result: TokenizerCompressResult,
) -> None:
    makers = {name: functools.partial(checkpoint.tensor, name) for name in checkpoint.names()}
    sliced = {
        name: functools.partial(_sliced, checkpoint, name, kept)
        for name in _ROWS_BY_TOKEN
        if name in makers
    }
    write_checkpoint(
        folder,
        with_new_ids(checkpoint.config, kept),
        LazyTensors(makers | sliced),
        stage=config.stage,
        settings={"vocab_size": config.vocab_size, "text": [str(path) for path in config.text]},
        parent=checkpoint,
        tokenizer=compact.path.parent,
        metrics=_scalars(result.summary()),
    )


def _sliced(checkpoint: Checkpoint, name: str, kept: Sequence[int]) -> Tensor:
    return slice_rows(checkpoint.tensor(name), kept)


def with_new_ids(config: ModelConfig, kept: Sequence[int]) -> ModelConfig:
    """Return the configuration with the ids and the size of the compact vocabulary."""
    new = {old: index for index, old in enumerate(kept)}
    return replace(
        config,
        vocab_size=len(kept),
        bos_token_id=None if config.bos_token_id is None else new[config.bos_token_id],
        eos_token_ids=tuple(new[index] for index in config.eos_token_ids),
        pad_token_id=None if config.pad_token_id is None else new[config.pad_token_id],
    )


def _parameters_removed(checkpoint: Checkpoint | None, n_rows: int) -> int:
    if checkpoint is None:
        return 0
    config = checkpoint.config
    n_tables = 1 if config.tie_word_embeddings else 2
    return n_tables * config.hidden_size * (config.vocab_size - n_rows)


def _scalars(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if isinstance(value, int | float)}
