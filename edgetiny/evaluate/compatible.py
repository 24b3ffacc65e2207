"""Whether token shards and a model speak of the same tokens."""

from pathlib import Path

from edgetiny.data import Shards
from edgetiny.errors import DataError
from edgetiny.tokenizer import Tokenizer, checkpoint_tokenizer, has_tokenizer


def check_same_tokenizer(path: Path, vocab_size: int, shards: Shards) -> None:
    """Raise DataError if shards cannot be of the model in `path` with `vocab_size` rows."""
    if shards.tokenizer_sha256 is None or not has_tokenizer(path):
        _check_ids(shards.vocab_size - 1, path, vocab_size, shards)
        return
    if Tokenizer.open(path).sha256 != shards.tokenizer_sha256:
        _check_ids(shards.vocab_size - 1, path, vocab_size, shards)
        raise DataError(
            f"{shards.path} was made with another tokenizer than the one in {path};"
            " build shards with the model's tokenizer"
        )
    # Special tokens may lie beyond the rows: no text has them, but a document may start with one.
    checkpoint_tokenizer(path, vocab_size)
    _check_ids(shards.document_start or 0, path, vocab_size, shards)


def _check_ids(largest: int, path: Path, vocab_size: int, shards: Shards) -> None:
    if largest >= vocab_size:
        raise DataError(
            f"{shards.path} holds ids up to {largest}, but the model in {path} has a"
            f" vocabulary of {vocab_size}; build shards with the model's tokenizer"
        )
