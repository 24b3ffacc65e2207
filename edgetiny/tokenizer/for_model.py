"""The tokenizer that a model was trained with, checked against the model's vocabulary."""

from pathlib import Path

from edgetiny.errors import CheckpointError
from edgetiny.tokenizer.tokenizer import Tokenizer

# Models round their rows up for speed: to a multiple of 64 mostly, of 1024 at most.
_MAX_SPARE_ROWS = 1024


def checkpoint_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    """Open the tokenizer in a checkpoint or artefact folder whose model has `vocab_size` rows.

    Special tokens may lie beyond the rows, as a padding token does that was declared later.
    Raises DataError if there is none, CheckpointError if it cannot be this model's.
    """
    tokenizer = Tokenizer.open(path)
    n_pieces = tokenizer.vocab_size
    if not tokenizer.text_size <= vocab_size <= n_pieces + _MAX_SPARE_ROWS:
        raise CheckpointError(
            f"{path}: the tokenizer has {n_pieces} pieces, but the model has a vocabulary of"
            f" {vocab_size}; put the tokenizer there that the model was trained with"
        )
    return tokenizer
