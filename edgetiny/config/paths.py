"""What a stage writes is no other kind of thing, and does not replace what it reads."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from edgetiny.errors import ConfigError

Kind = Literal["file", "folder"]


def check_outputs(
    reads: Iterable[tuple[str, Path]], writes: Iterable[tuple[str, Path, Kind]]
) -> None:
    """Raise ConfigError if an output is an input, holds one, or stands there as another kind.

    Paths come with the setting's name. What does not exist is no input: it may be the name of a
    preset or of a model on the hub.
    """
    inputs = [(name, path) for name, path in reads if os.path.exists(path)]
    for flag, out, kind in writes:
        _check_kind(flag, out, kind)
        for name, path in inputs:
            if os.path.realpath(path) == os.path.realpath(out):
                raise ConfigError(f"{flag} is what is read, {name} {path}; choose another {kind}")
            if kind == "folder" and _lies_in(path, out):
                raise ConfigError(
                    f"{flag} holds what is read, {name} {path}; choose another folder"
                )


def _check_kind(flag: str, out: Path, kind: Kind) -> None:
    if kind == "folder" and os.path.exists(out) and not os.path.isdir(out):
        raise ConfigError(f"{flag} {out} is a file, where a folder is written; choose another name")
    if kind == "file" and os.path.isdir(out):
        raise ConfigError(f"{flag} {out} is a folder, where a file is written; choose another name")


def _lies_in(path: Path, folder: Path) -> bool:
    root = os.path.realpath(folder)
    if Path(os.path.realpath(path)).is_relative_to(root):
        return True
    # A link in the folder would go with it, wherever it points.
    above = () if ".." in path.parts else path.absolute().parents
    return any(os.path.realpath(parent) == root for parent in above)
