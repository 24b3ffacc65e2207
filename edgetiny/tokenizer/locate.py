"""Where the files of a tokenizer stand in a folder, and copying them."""

import re
import shutil
from pathlib import Path

from edgetiny.errors import DataError
from edgetiny.files import TOKENIZER_FILES

MODEL_FILE = "tokenizer.model"
JSON_FILE = "tokenizer.json"
COMPANION_FILES = tuple(name for name in TOKENIZER_FILES if name != MODEL_FILE)

_SUPPORTED = f"supported are SentencePiece ({MODEL_FILE}) and {JSON_FILE}"
# Names by which other kinds are recognised, for a message that says what was found.
_OTHER_KINDS = {
    "vocab.json": f"a BPE vocab.json without {JSON_FILE}",
    "vocab.txt": "a WordPiece vocab.txt",
}


def find_model_file(path: Path) -> Path:
    """Return the file that decides the ids: `path` itself, or the one in the folder `path`.

    In a folder that is `tokenizer.model` (SentencePiece), else `tokenizer.json`. LLaMA 3's
    `tokenizer.model` is no SentencePiece model but the ranks of the same tokenizer, so the other is
    taken. Raises DataError that says what stands there instead.
    """
    if not path.exists():
        raise DataError(
            f"{path} does not exist; give a tokenizer folder, a .model file or a {JSON_FILE}"
        )
    if path.is_file():
        return path
    found = [path / name for name in (MODEL_FILE, JSON_FILE) if (path / name).is_file()]
    if len(found) > 1 and _is_rank_file(found[0]):
        return found[1]
    if found:
        return found[0]
    for name, kind in _OTHER_KINDS.items():
        if (path / name).is_file():
            raise DataError(f"{path} holds {kind}; {_SUPPORTED}")
    raise DataError(f"{path} holds no tokenizer; {_SUPPORTED}")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer that can be opened."""
    return any((folder / name).is_file() for name in (MODEL_FILE, JSON_FILE))


def _is_rank_file(model_file: Path) -> bool:
    """Whether a file lists pieces in base 64 with their ranks, as tiktoken has it."""
    with model_file.open("rb") as stream:
        return re.match(rb"[A-Za-z0-9+/]+=* \d+\n", stream.read(512)) is not None


def is_json(model_file: Path) -> bool:
    """Whether a tokenizer's file is a `tokenizer.json`, not a SentencePiece model."""
    return model_file.suffix == ".json"


def standing_beside(model_file: Path, name: str) -> Path | None:
    """Return the path of a companion of a tokenizer's file; None if there is none.

    Only a file with the usual name has companions: any other may share its folder with strangers.
    """
    path = model_file.parent / name
    usual = model_file.name in (MODEL_FILE, JSON_FILE)
    return path if usual and path != model_file and path.is_file() else None


def copy_tokenizer(model_file: Path, folder: Path) -> None:
    """Copy a tokenizer into an existing folder: its file and what stands beside it."""
    shutil.copyfile(model_file, folder / (JSON_FILE if is_json(model_file) else MODEL_FILE))
    for name in COMPANION_FILES:
        companion = standing_beside(model_file, name)
        if companion is not None:
            shutil.copyfile(companion, folder / name)
