"""Embedding and head of a checkpoint for another vocabulary: each new row from old ones."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgetiny.checkpoint import Checkpoint, ModelConfig, write_checkpoint
from edgetiny.checkpoint.folder import GENERATION_FILE
from edgetiny.files import read_json, write_json
from edgetiny.tokenizer.compact import MAP_FILE
from edgetiny.tokenizer.source import Source
from edgetiny.tokenizer.special_ids import with_new_ids
from edgetiny.tokenizer.tokenizer import Tokenizer

# Matrix products are fastest over whole tiles; 64 rows suit every device's.
_MULTIPLE = 64
_ROWS_BY_TOKEN = ("model.embed_tokens.weight", "lm_head.weight")


def padded(n_pieces: int) -> int:
    """Return the rows that so many pieces take: the next multiple of 64."""
    return math.ceil(n_pieces / _MULTIPLE) * _MULTIPLE


@dataclass(frozen=True, slots=True)
class RowMap:
    """Which old rows each new row is the mean of; padding rows beyond them are the mean of all."""

    old_ids: Sequence[Sequence[int]]

    @classmethod
    def of_kept(cls, kept: Sequence[int]) -> "RowMap":
        """Return the map that takes over the rows of kept ids as they are."""
        return cls([(index,) for index in kept])

    @property
    def n_rows(self) -> int:
        """Rows with padding."""
        return padded(len(self.old_ids))

    @property
    def new(self) -> dict[int, int]:
        """The new id of each old one whose row was taken over as it is."""
        # Of two pieces from one row the first is the one that was kept.
        numbered = reversed(list(enumerate(self.old_ids)))
        return {old[0]: index for index, old in numbered if len(old) == 1}

    def apply(self, table: Tensor) -> Tensor:
        """Return the new table: (old vocabulary, width) to (n_rows, width), same dtype.

        A row that was one old row is that row, bit for bit.
        """
        first = torch.tensor([old[0] for old in self.old_ids], dtype=torch.long)
        rows = table.index_select(0, first)
        for index, old in enumerate(self.old_ids):
            if len(old) > 1:
                rows[index] = table[list(old)].float().mean(dim=0).to(table.dtype)
        n_padding = self.n_rows - len(rows)
        if not n_padding:
            return rows
        # A mean of rows never gets the highest logit: no greedy decoder emits it.
        mean = rows.mean(dim=0, keepdim=True, dtype=torch.float32).to(table.dtype)
        return torch.cat([rows, mean.expand(n_padding, -1)])


def write_remade_checkpoint(
    folder: Path,
    source: Source,
    tokenizer: Tokenizer,
    row_map: RowMap,
    *,
    stage: str,
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> None:
    """Write the source's checkpoint with another tokenizer, into an existing folder.

    The rows are as the map says; special ids are rewritten wherever settings name them.
    """
    checkpoint = source.checkpoint
    assert checkpoint is not None
    remade = remade_checkpoint(checkpoint, row_map)
    write_checkpoint(
        folder,
        remade.config,
        remade.state_dict(),
        stage=stage,
        settings=settings,
        parent=checkpoint,
        tokenizer=tokenizer.path.parent,
        metrics=metrics,
    )
    adopt_rows(folder, source, tokenizer, row_map)


def remade_checkpoint(checkpoint: Checkpoint, row_map: RowMap) -> Checkpoint:
    """Return a checkpoint with other rows of embedding and head, made when they are asked for.

    Its path, and so its hash and lineage, stay those of the folder that it is read from.
    """
    makers = {name: functools.partial(checkpoint.tensor, name) for name in checkpoint.names()}
    remade = {
        name: functools.partial(_remade, makers[name], row_map)
        for name in _ROWS_BY_TOKEN
        if name in makers
    }
    return Checkpoint(checkpoint.path, _config(checkpoint.config, row_map), makers | remade)


def adopt_rows(folder: Path, source: Source, tokenizer: Tokenizer, row_map: RowMap) -> None:
    """Say in a checkpoint folder, written already, what the rows and special ids have become."""
    declare_rows(folder, row_map.n_rows)
    _rewrite_ids(folder, source, tokenizer, row_map.new)


def declare_rows(folder: Path, n_rows: int) -> None:
    """Say in a folder's `vocab_map.json` how many rows the embedding has, padding included."""
    mapping = read_json(folder / MAP_FILE)
    write_json(folder / MAP_FILE, mapping | {"embedding_rows": n_rows})


def _remade(maker: functools.partial[Tensor], row_map: RowMap) -> Tensor:
    return row_map.apply(maker())


def _config(config: ModelConfig, row_map: RowMap) -> ModelConfig:
    new = row_map.new
    return replace(
        config,
        vocab_size=row_map.n_rows,
        bos_token_id=None if config.bos_token_id is None else new[config.bos_token_id],
        eos_token_ids=tuple(new[index] for index in config.eos_token_ids),
        pad_token_id=None if config.pad_token_id is None else new[config.pad_token_id],
    )


def _rewrite_ids(
    folder: Path, source: Source, tokenizer: Tokenizer, new: Mapping[int, int]
) -> None:
    """Carry over what `config.json` and `generation_config.json` say of other ids."""

    def respell(ids: Sequence[int]) -> list[int]:
        if all(index in new for index in ids):
            return [new[index] for index in ids]
        return tokenizer.encode(source.tokenizer.decode(ids))

    for name, settings in (("config.json", source.model_ids), (GENERATION_FILE, source.generation)):
        if settings:
            carried = with_new_ids(settings, new, respell)
            written = read_json(folder / name)
            write_json(folder / name, written | carried)
