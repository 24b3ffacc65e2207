"""Whether token shards and a model speak of the same tokens."""

from pathlib import Path

from edgetiny.data import Shards
from edgetiny.errors import DataError
from edgetiny.tokenizer import checkpoint_tokenizer, has_tokenizer


def check_same_tokenizer(path: Path, vocab_size: int, shards: Shards) -> None:
    """Raise DataError if shards cannot be of the model in `path` with `vocab_size` rows."""
    if shards.vocab_size > vocab_size:
        raise DataError(
            f"{shards.path} holds ids up to {shards.vocab_size - 1}, but the model in {path} has a"
            f" vocabulary of {vocab_size}; build shards with the model's tokenizer"
        )
    if shards.tokenizer_sha256 is None or not has_tokenizer(path):
        return
    if checkpoint_tokenizer(path, vocab_size).sha256 != shards.tokenizer_sha256:
        raise DataError(
            f"{shards.path} was made with another tokenizer than the one in {path};"
            " build shards with the model's tokenizer"
        )
