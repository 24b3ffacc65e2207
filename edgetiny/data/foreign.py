"""Token files of other projects: nanoGPT's and llm.c's `.bin`."""

from pathlib import Path
from typing import Any

import numpy as np

from edgetiny.errors import DataError

# llm.c writes 256 int32 before its uint16 tokens: magic, version, number of tokens, zeros.
# Source: llm.c, dev/data/data_common.py.
_LLMC_MAGIC = 20240520
_LLMC_VERSION = 1
_LLMC_HEADER_BYTES = 256 * 4


def open_foreign(folder: Path) -> dict[str, tuple[Path, Any]]:
    """Return path and memory-mapped tokens of `train` and `valid` in a folder of bare `.bin` files.

    `train.bin` with `val.bin` (or `valid.bin`): nanoGPT's headerless little-endian uint16, or
    llm.c's with a header of 256 int32. Raises DataError if they are missing or damaged.
    """
    train = folder / "train.bin"
    candidates = [folder / "val.bin", folder / "valid.bin"]
    valid = next((path for path in candidates if path.is_file()), None)
    if not train.is_file() or valid is None:
        raise DataError(
            f"{folder} holds no token shards: neither meta.json, nor train.bin and val.bin;"
            " make some with `edgetiny data build`"
        )
    return {"train": (train, _open_file(train)), "valid": (valid, _open_file(valid))}


def _open_file(path: Path) -> Any:
    size_bytes = path.stat().st_size
    if size_bytes % 2:
        raise DataError(f"{path} holds an odd number of bytes, so it is not uint16 tokens")
    header = np.fromfile(path, dtype="<i4", count=3)
    if len(header) < 3 or header[0] != _LLMC_MAGIC:
        return np.memmap(path, dtype="<u2", mode="r") if size_bytes else np.empty(0, np.uint16)
    if header[1] != _LLMC_VERSION:
        raise DataError(f"{path}: llm.c version {header[1]}; supported is version {_LLMC_VERSION}")
    n_tokens = int(header[2])
    if size_bytes != _LLMC_HEADER_BYTES + 2 * n_tokens:
        raise DataError(
            f"{path} is cut short: its header tells of {n_tokens:,} tokens,"
            f" the file has room for {(size_bytes - _LLMC_HEADER_BYTES) // 2:,}"
        )
    if n_tokens == 0:
        return np.empty(0, np.uint16)
    return np.memmap(path, dtype="<u2", mode="r", offset=_LLMC_HEADER_BYTES)
