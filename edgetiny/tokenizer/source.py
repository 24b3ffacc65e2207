"""What a smaller vocabulary is made from: a tokenizer, and the checkpoint it belongs to, if any."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetiny.checkpoint import Checkpoint
from edgetiny.errors import CheckpointError, DataError
from edgetiny.files import read_json
from edgetiny.tokenizer.special_ids import ID_KEYS, role_ids
from edgetiny.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Source:
    """A tokenizer, and the checkpoint that it belongs to, if any."""

    tokenizer: Tokenizer
    checkpoint: Checkpoint | None

    @property
    def model_ids(self) -> Mapping[str, Any]:
        """The keys of the checkpoint's `config.json` that name token ids."""
        if self.checkpoint is None:
            return {}
        config = read_json(self.checkpoint.path / "config.json", error=CheckpointError)
        return {key: value for key, value in config.items() if key in ID_KEYS}

    @property
    def generation(self) -> Mapping[str, Any]:
        """The checkpoint's `generation_config.json`; empty if there is none."""
        return {} if self.checkpoint is None else self.checkpoint.generation_config

    @property
    def special_ids(self) -> set[int]:
        """The ids that the checkpoint's settings give a role."""
        return role_ids(self.model_ids) | role_ids(self.generation)


def open_source(source: Path) -> Source:
    """Open a checkpoint folder, an `hf:` reference, a tokenizer folder or a tokenizer file.

    Raises DataError for another kind of tokenizer, CheckpointError if the vocabulary of the
    checkpoint is smaller than its tokenizer's, or a special id lies beyond both.
    """
    is_checkpoint = str(source).startswith("hf:") or (source / "config.json").is_file()
    checkpoint = Checkpoint.open(str(source)) if is_checkpoint else None
    opened = Source(Tokenizer.open(source if checkpoint is None else checkpoint.path), checkpoint)
    n_pieces = opened.tokenizer.vocab_size
    if checkpoint is not None and checkpoint.config.vocab_size < n_pieces:
        raise CheckpointError(
            f"{checkpoint.path} has {checkpoint.config.vocab_size:,} embedding rows but its"
            f" tokenizer has {n_pieces:,} pieces; the two do not belong together"
        )
    beyond = sorted(index for index in opened.special_ids if not 0 <= index < n_pieces)
    if beyond:
        raise CheckpointError(
            f"{source}: the special id {beyond[0]} lies beyond the {n_pieces:,} pieces of its"
            " tokenizer; added tokens cannot be kept, so make them pieces first"
        )
    return opened


def kept_ids(path: Path, source: Tokenizer) -> set[int]:
    """Return the ids that a `--keep` file asks for: of each line the piece, and its tokens as text.

    Blank lines ask for nothing; spaces at the ends of others count. Raises DataError.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    lines = [line for line in content.splitlines() if line]
    if not lines:
        raise DataError(f"{path} asks for nothing; write a piece or a text on each line")
    ids = {piece: index for index, piece in enumerate(source.vocabulary().pieces)}
    kept = {ids[line] for line in lines if line in ids}
    for line in lines:
        kept.update(source.encode(line))
    return kept
