"""Files and folders that appear whole or not at all; JSON and TOML that say which schema it is."""

import contextlib
import ctypes
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgetiny.errors import ConfigError, DataError, EdgetinyError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2

# What edgetiny writes into each kind of folder, and keys that others' files of that name lack.
_MARKERS: Mapping[str, frozenset[str]] = {
    "edgetiny.json": frozenset({"schema_version", "stage", "versions"}),
    "manifest.json": frozenset({"schema_version", "source_sha256", "tokenizer_sha256", "versions"}),
    "meta.json": frozenset({"schema_version", "edgetiny", "splits"}),
    "demo.json": frozenset({"schema_version", "export_from"}),
    "mask_state.json": frozenset({"schema_version", "step", "settings", "sources"}),
    "sweep.json": frozenset({"schema_version", "settings", "rows"}),
}
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab_map.json",
)
"""All that a tokenizer may consist of; the last is our own."""


@contextlib.contextmanager
def atomic_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `out` that becomes `out` when the block ends well.

    A block that raises, or a process that is killed, leaves what stood at `out` before. Where `out`
    is a link, what it points to is replaced.
    Raises ConfigError if `out` holds something and `overwrite` is false, or cannot be written.
    """
    refuse_existing(out, overwrite=overwrite)
    out = Path(os.path.realpath(out)) if out.is_symlink() else out
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file, where a folder is written; choose another --out")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
        temporary = out.parent / f".{out.name}.tmp-{os.getpid()}"
        temporary.mkdir()
        try:
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    _flush_to_disk(path)
            _put_in_place(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(out: Path) -> Iterator[Path]:
    """Yield a temporary sibling path that replaces `out` when the block ends well."""
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.tmp-{os.getpid()}-", dir=out.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            _flush_to_disk(temporary)
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Raise ConfigError if writing `out` would replace something the user did not give up.

    A folder is replaced only where edgetiny itself wrote it: `--overwrite` aimed by mistake at
    a home folder or a work tree must not cost anything. A place that cannot be written is refused
    now, before the work.
    """
    place = next((each for each in out.absolute().parents if each.exists()), Path("/"))
    if not os.access(place, os.W_OK):
        raise ConfigError(f"cannot write {out}: permission denied or read-only ({place})")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ConfigError(f"{out} exists; choose another --out, or give --overwrite to replace it")
    if out.is_dir() and not (_holds_marker(out) or _is_our_tokenizer(out)):
        raise ConfigError(f"{out} was not written by edgetiny, so --overwrite does not replace it")


def _holds_marker(folder: Path) -> bool:
    return any(keys <= _object(folder / name).keys() for name, keys in _MARKERS.items())


def _is_our_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer that edgetiny cut or trained, and nothing else."""
    if not {path.name for path in folder.iterdir()} <= set(TOKENIZER_FILES):
        return False
    cut = "source_tokenizer_sha256" in _object(folder / "vocab_map.json")
    config = _object(folder / "tokenizer_config.json")
    # Gemma's own tokenizers begin with <bos>: this class with this token is tokenizer train's.
    trained = {"tokenizer_class": "GemmaTokenizer", "bos_token": "<s>", "add_prefix_space": False}
    return cut or trained.items() <= config.items()


def _object(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one if the file is missing, damaged or something else."""
    try:
        return read_json(path)
    except DataError:
        return {}


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing `out` into one line for the user."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"cannot write {out}: {reason}{where}; nothing was changed") from error


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, payload: Mapping[str, Any]) -> None:
    """Write `payload` as indented UTF-8 JSON, refusing NaN and infinity."""
    text = json.dumps(payload, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_json(
    path: Path, *, schema_version: int | None = None, error: type[EdgetinyError] = DataError
) -> dict[str, Any]:
    """Read a JSON object.

    With `schema_version`, the file must declare a version between 1 and that one.
    Raises `error` in one line if the file is missing, damaged or newer.
    """
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path} does not exist") from None
    except IsADirectoryError:
        raise error(f"{path} is a folder, not a JSON file") from None
    except PermissionError:
        raise error(f"{path} cannot be read: permission denied") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as failure:
        raise error(f"{path} is not valid JSON: {failure}") from failure
    if not isinstance(payload, dict):
        raise error(f"{path} holds a {type(payload).__name__}, not a JSON object")
    if schema_version is not None:
        found = payload.get("schema_version")
        _check_version(path, found, schema_version, "was it written by edgetiny?", error)
    return payload


def read_toml(
    path: Path,
    kind: str,
    *,
    schema_version: int | None = None,
    error: type[EdgetinyError] = ConfigError,
) -> dict[str, Any]:
    """Read a TOML file; `kind` is what a user calls it: a recipe, a design.

    With `schema_version`, the file must declare a version between 1 and that one, which is left
    out of what is returned. Raises `error` in one line if the file is missing, damaged or newer.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{kind} {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as failure:
        raise error(f"{kind} {path} cannot be read: {failure}") from failure
    except tomllib.TOMLDecodeError as failure:
        raise error(f"{kind} {path} is not valid TOML: {failure}") from failure
    if schema_version is not None:
        found = values.pop("schema_version", None)
        _check_version(path, found, schema_version, f"is it a {kind}?", error)
    return values


def toml_value(value: object) -> str:
    """Return a text, a number, a truth value or a list of them as TOML."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    # JSON's escapes are TOML's, but TOML also wants the delete character escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _check_version(
    path: Path, found: object, known: int, question: str, error: type[EdgetinyError]
) -> None:
    if type(found) is not int or found < 1:
        raise error(f"{path} has no schema_version; {question}")
    if found > known:
        raise error(
            f"{path} follows schema version {found}, this edgetiny knows up to {known};"
            " upgrade edgetiny"
        )


def _put_in_place(temporary: Path, out: Path) -> None:
    if not out.exists():
        temporary.rename(out)
    elif not _exchange(temporary, out):
        # No atomic exchange here: for an instant only the old copy, under another name, exists.
        old = out.parent / f".{out.name}.old-{os.getpid()}"
        out.rename(old)
        try:
            temporary.rename(out)
        except OSError:
            old.rename(out)
            raise
        shutil.rmtree(old)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths atomically (renameat2, Linux); return False where that does not exist."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    status: int = renameat2(
        _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE
    )
    return status == 0


def remove_leftovers(out: Path) -> None:
    """Remove what killed processes left beside `out`; another living process keeps its own.

    What one was killed between moving the old `out` away and the new one in is moved back. In a
    container every start may have the same number: what has ours is of a start before.
    """
    pattern = re.compile(re.escape(f".{out.name}.") + r"(tmp|old)-(\d+)$")
    for sibling in out.parent.iterdir():
        match = pattern.match(sibling.name)
        if match is None or (int(match[2]) != os.getpid() and Path(f"/proc/{match[2]}").exists()):
            continue
        if match[1] == "old" and not out.exists():
            sibling.rename(out)
        else:
            shutil.rmtree(sibling, ignore_errors=True)


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
