"""Raw text as a stream of documents, from the file kinds that corpora come in."""

import codecs
import contextlib
import gzip
import importlib
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from edgetiny.errors import DataError

KINDS = (".txt", ".jsonl", ".parquet")
COMPRESSIONS = (".gz", ".xz", ".zst")
STDIN = Path("-")
"""Stands for standard input among text files, where one pass over the text is enough."""
StdinFormat = Literal["auto", "txt", "jsonl"]
"""auto: JSON lines if the first byte is `{`, plain text if it is another."""

# A longer .txt is handed on in parts of about this many characters, cut at line ends,
# so that a stage never holds a whole library in memory.
_PART_CHARACTERS = 8 << 20
_READ_BYTES = 1 << 20
_PARQUET_ROWS = 256
# How .gz, .xz and .zst files begin.
_COMPRESSED = (b"\x1f\x8b", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Document:
    """One text. `group` is the stem of its file; `source` says which work it comes from."""

    text: str
    source: str | None
    group: str


def read_documents(
    paths: Sequence[Path],
    advance: Advance | None = None,
    *,
    part_characters: int = _PART_CHARACTERS,
    stdin: StdinFormat | None = None,
) -> Iterator[Document]:
    """Yield the documents of text files in order, holding one of them at a time.

    `.txt`: the file is one document; one longer than `part_characters` comes in parts, cut at
    line ends, with one source. `.jsonl`: one object a line with `text` and, if known, `source`.
    `.parquet`: a column `text` and, if known, `source`. The first two may be compressed as
    `.gz`, `.xz` or `.zst`. Blank documents are skipped; line ends are kept as they are.
    advance: called with the bytes of file read since its last call (of `total_bytes(paths)`).
    stdin: how to read `-`, standard input, a stream of any length whose group is "stdin"; by
    default it is refused, for callers that read their text more than once.
    Raises DataError in one line: a missing or damaged file, an unknown kind, text that is not
    UTF-8, a line without text, or nothing but blanks.
    """
    total_bytes(paths, stdin=stdin)
    is_blank = True
    for path in paths:
        for document in _read_file(path, advance or _ignore, part_characters, stdin or "auto"):
            if document.text and not document.text.isspace():
                is_blank = False
                yield document
    if is_blank:
        raise DataError(f"{_list(paths)} holds no text; give a file with some")


def total_bytes(paths: Sequence[Path], *, stdin: StdinFormat | None = None) -> int:
    """Return the size of text files on disk; raise DataError if one cannot be read as text.

    Standard input, where it is not refused (`read_documents` says how), adds nothing.
    """
    if not paths:
        raise DataError("no text file given; give at least one --text FILE")
    files = [path for path in paths if path != STDIN]
    if len(files) < len(paths) and stdin is None:
        raise DataError("standard input (-) can be read only once; give text files here")
    if len(paths) - len(files) > 1:
        raise DataError("standard input (-) is given twice, but can be read only once")
    for path in files:
        if path.is_dir():
            raise DataError(f"{path} is a folder; give the text files in it, one --text each")
        if not path.exists():
            raise DataError(f"{path} does not exist")
        _kind(path)
    return sum(path.stat().st_size for path in files)


def group_of(path: Path) -> str:
    """Return the name of the group that a file's documents belong to: its stem, no suffixes."""
    return _kind(path)[0]


def work_of(source: str) -> str:
    """Return the work that a source is a part of: what stands before `#` or `/`.

    A URL is a work of its own, without its fragment.
    """
    before_fragment = source.partition("#")[0]
    return before_fragment if "://" in source else before_fragment.partition("/")[0]


def _ignore(count: int) -> None:
    pass


def _list(paths: Sequence[Path]) -> str:
    return ", ".join("standard input" if path == STDIN else str(path) for path in paths)


def _kind(path: Path) -> tuple[str, str, str]:
    """Return (stem, kind, compression) of a file name, or say what would be readable."""
    name, compression = path.name, ""
    if path.suffix in COMPRESSIONS:
        name, compression = path.stem, path.suffix
    kind = Path(name).suffix
    if kind == ".parquet" and compression:
        raise DataError(f"{path}: parquet compresses itself; give it without {compression}")
    if kind not in KINDS:
        raise DataError(
            f"{path}: unknown kind of text file; known are {', '.join(KINDS)},"
            f" the first two also with {', '.join(COMPRESSIONS)}"
        )
    return Path(name).stem, kind, compression


def _read_file(
    path: Path, advance: Advance, part_characters: int, stdin: StdinFormat
) -> Iterator[Document]:
    if path == STDIN:
        yield from _read_stdin(advance, part_characters, stdin)
        return
    stem, kind, compression = _kind(path)
    if kind == ".parquet":
        yield from _read_parquet(path, stem, advance)
        return
    with _open(path, compression, advance) as stream:
        if kind == ".txt":
            for text in _read_txt(path, stream, part_characters):
                yield Document(text, path.name, stem)
        else:
            yield from _read_jsonl(path, stem, stream)


def _read_stdin(advance: Advance, part_characters: int, stdin: StdinFormat) -> Iterator[Document]:
    name = "standard input"
    counted = _Counted(sys.stdin.buffer, advance)
    first = counted.read(_READ_BYTES)
    if first.startswith(_COMPRESSED):
        raise DataError(f"{name} is compressed; unpack it on the way, as in xzcat FILE | edgetiny")
    is_json = first.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{")
    stream: Any = _Resumed(first, counted)
    if stdin == "txt" or (stdin == "auto" and not is_json):
        for text in _read_txt(name, stream, part_characters):
            yield Document(text, None, "stdin")
        return
    try:
        yield from _read_jsonl(name, "stdin", stream)
    except DataError as error:
        if stdin == "jsonl":
            raise
        raise DataError(f"{error} (the text begins with {{; is it --text-format txt?)") from None


class _Counted:
    """A binary file that reports how far the reader has come."""

    def __init__(self, raw: IO[bytes], advance: Advance) -> None:
        self._raw = raw
        self._advance = advance

    def read(self, size: int = -1) -> bytes:
        chunk = self._raw.read(size)
        self._advance(len(chunk))
        return chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


class _Resumed:
    """A stream whose first bytes were read before."""

    def __init__(self, first: bytes, rest: _Counted) -> None:
        self._first = first
        self._rest = rest

    def read(self, size: int) -> bytes:
        first, self._first = self._first, b""
        return first or self._rest.read(size)


class _ZstdFrames:
    """Reads the frames of a .zst file; zstandard's own reader takes a cut file for whole."""

    def __init__(self, decompressor: Any, raw: _Counted) -> None:
        self._decompressor = decompressor
        self._raw = raw
        self._frame: Any = None

    def read(self, size: int) -> bytes:
        """Return some text, about as much as `size` bytes of file give; nothing at the end."""
        while chunk := self._raw.read(min(size, _READ_BYTES // 8)):
            if content := self._decompress(chunk):
                return content
        if self._frame is not None:
            raise EOFError("the file is cut short")
        return b""

    def _decompress(self, chunk: bytes) -> bytes:
        content = b""
        while chunk:
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            content += self._frame.decompress(chunk)
            chunk = b""
            if self._frame.eof:
                chunk, self._frame = self._frame.unused_data, None
        return content


@contextlib.contextmanager
def _open(path: Path, compression: str, advance: Advance) -> Iterator[IO[bytes]]:
    """Open a text file for buffered reading, decompressed, with its failures put in one line."""
    zstd = _import("zstandard", path) if compression == ".zst" else None
    damaged: list[type[Exception]] = [EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error]
    if zstd is not None:
        damaged.append(zstd.ZstdError)
    try:
        with path.open("rb") as raw:
            counted: Any = _Counted(raw, advance)
            if compression == ".gz":
                counted = gzip.GzipFile(fileobj=counted, mode="rb")
            elif compression == ".xz":
                counted = lzma.open(counted)  # noqa: SIM115
            elif zstd is not None:
                counted = _ZstdFrames(zstd.ZstdDecompressor(), counted)
            yield counted
    except tuple(damaged) as error:
        raise DataError(f"{path} is damaged or not {compression[1:]}: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_txt(path: Path | str, stream: IO[bytes], part_characters: int) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    held, offset = "", 0
    while True:
        chunk = stream.read(_READ_BYTES)
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            where = offset - pending + error.start
            raise DataError(f"{path} is not UTF-8 text at byte {where:,}: {error.reason}") from None
        held += text.removeprefix("\ufeff") if offset == 0 else text
        offset += len(chunk)
        if not chunk:
            break
        while len(held) > part_characters:
            cut = held.rfind("\n", 0, part_characters) + 1 or part_characters
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    while chunk := stream.read(_READ_BYTES):
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join((*held, line))
            held.clear()
        held.append(rest)
    yield b"".join(held)


def _read_jsonl(path: Path | str, group: str, stream: IO[bytes]) -> Iterator[Document]:
    for number, line in enumerate(_lines(stream), start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line or line.isspace():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 text: {error.reason}") from None
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{where}: not valid JSON: {error}") from None
        if not isinstance(record, dict):
            raise DataError(f"{where}: holds a {type(record).__name__}, not an object with `text`")
        yield _document(record.get("text"), record.get("source"), group, where)


def _document(text: object, source: object, group: str, where: str) -> Document:
    if not isinstance(text, str):
        raise DataError(f"{where}: no field `text` with a string in it")
    if source is not None and not isinstance(source, str | int):
        raise DataError(f"{where}: `source` must be a string, not a {type(source).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # JSON can spell half a surrogate pair, which no UTF-8 file or tokenizer can hold.
        raise DataError(f"{where}: the text holds half a surrogate pair, not UTF-8") from None
    return Document(text, None if source is None else str(source), group)


def _read_parquet(path: Path, group: str, advance: Advance) -> Iterator[Document]:
    parquet, arrow = _import("pyarrow.parquet", path), _import("pyarrow", path)
    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in ("text", "source") if name in file.schema_arrow.names]
            if "text" not in columns:
                names = ", ".join(file.schema_arrow.names)
                raise DataError(f"{path} has no column `text`; its columns are {names}")
            n_rows = max(1, file.metadata.num_rows)
            size_bytes, row = path.stat().st_size, 0
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
                for record in batch.to_pylist():
                    row += 1
                    if record["text"] is not None:
                        where = f"{path} row {row}"
                        yield _document(record["text"], record.get("source"), group, where)
                done_before = row - batch.num_rows
                advance(size_bytes * row // n_rows - size_bytes * done_before // n_rows)
    except (arrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as parquet: {reason}") from error


def _import(module: str, path: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        install = "edgetiny[parquet]" if package == "pyarrow" else package
        raise DataError(f'{path} needs the package {package}: pip install "{install}"') from None
