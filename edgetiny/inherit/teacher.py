"""The model to inherit from: as it stands, or with the rows of a compact tokenizer alone."""

from dataclasses import dataclass
from pathlib import Path

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.model import InheritConfig
from edgetiny.tokenizer.rows import RowMap, adopt_rows, remade_checkpoint
from edgetiny.tokenizer.source import Source, open_source
from edgetiny.tokenizer.tokenizer import Tokenizer
from edgetiny.tokenizer.vocab_map import read_row_map


@dataclass(frozen=True, slots=True)
class _Cut:
    source: Source
    compact: Tokenizer
    row_map: RowMap


@dataclass(frozen=True, slots=True)
class Teacher:
    """A checkpoint whose rows are those that the student is to have, and the tokenizer of them.

    tokenizer: a folder. Rows that a compact tokenizer leaves out are cut off as they are read.
    """

    checkpoint: Checkpoint
    tokenizer: Path
    _cut: _Cut | None = None

    def adopt(self, folder: Path) -> None:
        """Say in the student's folder, written already, what became of the teacher's ids."""
        if self._cut is not None:
            adopt_rows(folder, self._cut.source, self._cut.compact, self._cut.row_map)


def open_teacher(config: InheritConfig) -> Teacher:
    """Open `config.source`, with the rows of `config.tokenizer` if there is one.

    Raises CheckpointError for a folder that is no checkpoint, DataError for a tokenizer that is not
    compact or was not made from the source's.
    """
    checkpoint = Checkpoint.open(config.source)
    if config.tokenizer is None:
        return Teacher(checkpoint, checkpoint.path)
    source = open_source(config.source)
    compact = Tokenizer.open(config.tokenizer)
    row_map = read_row_map(compact, source)
    remade = remade_checkpoint(checkpoint, row_map)
    return Teacher(remade, compact.path.parent, _Cut(source, compact, row_map))
