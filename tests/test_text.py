import gzip
import io
import json
import lzma
import random
import string
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgetiny.errors import DataError
from edgetiny.text import (
    STDIN,
    Document,
    StdinFormat,
    group_of,
    read_documents,
    total_bytes,
    work_of,
)

zstandard = pytest.importorskip("zstandard")

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: zstandard.ZstdCompressor().compress(content),
}
TEXT = "First line, déjà vu.\r\n\r\n  Zweite Zeile. 第三行。\n"
RECORDS = [
    {"text": TEXT, "source": "book#1"},
    {"text": "no source"},
    {"text": "", "source": "blank"},
    {"text": " \n", "source": "blank"},
    {"text": "numbered", "source": 7},
]
READ = [(TEXT, "book#1"), ("no source", None), ("numbered", "7")]


def _jsonl(records: list[dict[str, object]]) -> bytes:
    return "\n\n".join(json.dumps(record, ensure_ascii=False) for record in records).encode()


@pytest.mark.parametrize("suffix", COMPRESS)
def test_txt_is_one_document_verbatim(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"my.book.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](TEXT.encode()))
    [document] = read_documents([path])
    assert document == Document(TEXT, path.name, "my.book")


@pytest.mark.parametrize("suffix", COMPRESS)
def test_jsonl_is_one_document_a_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"en.jsonl{suffix}"
    path.write_bytes(COMPRESS[suffix](_jsonl(RECORDS)))
    documents = list(read_documents([path]))
    assert [(document.text, document.source) for document in documents] == READ
    assert {document.group for document in documents} == {"en"}


def test_parquet_is_one_document_a_row(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "en.parquet"
    texts = [record["text"] for record in RECORDS] + [None]
    sources = ["book#1", None, "blank", "blank", "7", "nothing"]
    parquet.write_table(arrow.table({"text": texts, "id": range(6), "source": sources}), path)
    documents = list(read_documents([path]))
    assert [(document.text, document.source) for document in documents] == READ
    parquet.write_table(arrow.table({"text": texts}), path)
    assert [document.source for document in read_documents([path])] == [None] * 3


def test_files_come_in_the_order_given(tmp_path: Path) -> None:
    for name in "ba":
        (tmp_path / f"{name}.txt").write_text(name)
    paths = [tmp_path / "b.txt", tmp_path / "a.txt"]
    assert [document.group for document in read_documents(paths)] == ["b", "a"]


@pytest.mark.parametrize("text", ["a line\n" * 100, "x" * 700, "中文\n" * 300 + "end"])
def test_a_long_txt_comes_in_parts_that_join_to_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "long.txt"
    path.write_text(text, encoding="utf-8")
    parts = [document.text for document in read_documents([path], part_characters=50)]
    assert "".join(parts) == text
    assert len(parts) > 5
    assert max(map(len, parts)) <= 50
    if "\n" in text:
        assert all(part.endswith("\n") for part in parts[:-1])


@pytest.mark.parametrize("suffix", COMPRESS)
def test_progress_adds_up_to_the_size_on_disk(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"a.jsonl{suffix}", tmp_path / f"b.txt{suffix}"]
    for path in paths:
        path.write_bytes(COMPRESS[suffix](_jsonl(RECORDS)))
    seen: list[int] = []
    list(read_documents(paths, seen.append))
    assert sum(seen) == total_bytes(paths)


def test_progress_of_parquet_adds_up_too(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"text": ["some text"] * 1000}), path)
    seen: list[int] = []
    list(read_documents([path], seen.append))
    assert sum(seen) == path.stat().st_size
    assert len(seen) > 1


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbftext")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "text"}')
    for name in ("a.txt", "b.jsonl"):
        assert [document.text for document in read_documents([tmp_path / name])] == ["text"]


@pytest.mark.parametrize(
    ("source", "work"),
    [
        ("book", "book"),
        ("book#3", "book"),
        ("book/chapter/2", "book"),
        ("a#b/c", "a"),
        ("https://example.org/page?x=1#part", "https://example.org/page?x=1"),
    ],
)
def test_work_is_what_stands_before_the_part(source: str, work: str) -> None:
    assert work_of(source) == work


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"abc\xffdef", r"a\.txt is not UTF-8 text at byte 3"),
        ("a.txt", b"abc\xe4\xb8", r"a\.txt is not UTF-8 text at byte 3"),
        ("a.txt", b"", r"a\.txt holds no text"),
        ("a.txt", b" \n\t", r"a\.txt holds no text"),
        ("a.pdf", b"%PDF", r"a\.pdf: unknown kind of text file; known are \.txt, \.jsonl"),
        ("a.gz", b"", r"a\.gz: unknown kind of text file"),
        ("a.parquet.gz", b"", "parquet compresses itself"),
        ("a.parquet", b"PAR1 not", "cannot be read as parquet"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"text": "x"}\n\n["y"]', r"a\.jsonl:3: holds a list"),
        ("a.jsonl", b'{"txt": "x"}', r"a\.jsonl:1: no field `text`"),
        ("a.jsonl", b'{"text": 5}', r"a\.jsonl:1: no field `text`"),
        ("a.jsonl", b'{"text": "x", "source": []}', "`source` must be a string, not a list"),
        ("a.jsonl", b'{"text": "\xff"}', r"a\.jsonl:1: not UTF-8"),
        ("a.jsonl", b'{"text": "\\ud800"}', "half a surrogate pair"),
        ("a.jsonl", b'{"text": ""}', r"a\.jsonl holds no text"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: not valid JSON"),
        ("a.txt.gz", b"plain", "is damaged or not gz"),
        ("a.txt.xz", b"plain", "is damaged or not xz"),
        ("a.txt.zst", b"plain", "is damaged or not zst"),
        ("a.txt.gz", gzip.compress(b"x" * 999, mtime=0)[:-9], "is damaged or not gz"),
        ("a.txt.xz", lzma.compress(b"x" * 999)[:-20], "is damaged or not xz"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(read_documents([tmp_path / name]))
    assert "\n" not in str(caught.value)


def test_utf8_is_checked_across_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetiny.text._READ_BYTES", 4)
    path = tmp_path / "a.txt"
    path.write_text("abc中文字", encoding="utf-8")
    assert [document.text for document in read_documents([path])] == ["abc中文字"]
    path.write_bytes("abc中文".encode() + b"\xe4xyz")
    with pytest.raises(DataError, match="at byte 9"):
        list(read_documents([path]))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_cut_file_is_an_error_and_not_half_a_text(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    noise = "".join(random.Random(0).choices(string.ascii_letters, k=500_000)).encode()
    whole = COMPRESS[suffix](noise)
    for n_bytes in (len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(DataError, match="is damaged"):
            list(read_documents([path]))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_files_compressed_in_pieces_read_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](b"one ") + COMPRESS[suffix](b"two"))
    assert [document.text for document in read_documents([path])] == ["one two"]


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.txt does not exist"):
        list(read_documents([tmp_path / "nowhere.txt"]))
    with pytest.raises(DataError, match="is a folder"):
        list(read_documents([tmp_path]))
    with pytest.raises(DataError, match="no text file given"):
        list(read_documents([]))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, package in (("a.txt.zst", "zstandard"), ("a.parquet", r"edgetiny\[parquet\]")):
        (tmp_path / name).write_bytes(b"x")
        monkeypatch.setitem(sys.modules, "zstandard", None)
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(DataError, match=f'needs the package .*: pip install "{package}"'):
            list(read_documents([tmp_path / name]))


def test_group_is_the_stem() -> None:
    assert [group_of(Path(name)) for name in ("x/en.jsonl.xz", "a.b.txt", "zh.parquet")] == [
        "en",
        "a.b",
        "zh",
    ]


def test_real_text_reads(shared_data: Path) -> None:
    documents = list(
        read_documents([shared_data / "text" / f"{name}.jsonl.xz" for name in ("en",)])
    )
    assert len(documents) == 2039
    assert len({work_of(document.source or "") for document in documents}) == 88


def _pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input_is_json_lines_or_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (_jsonl(RECORDS), b"\n " + _jsonl(RECORDS)):
        _pipe(monkeypatch, content)
        documents = list(read_documents([STDIN], stdin="auto"))
        assert [(document.text, document.source) for document in documents] == READ
        assert {document.group for document in documents} == {"stdin"}
    _pipe(monkeypatch, TEXT.encode())
    [document] = read_documents([STDIN], stdin="auto")
    assert document == Document(TEXT, None, "stdin")
    _pipe(monkeypatch, b"{ is how this text begins")
    [document] = read_documents([STDIN], stdin="txt")
    assert document.text == "{ is how this text begins"


def test_standard_input_is_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    _pipe(monkeypatch, b"line\n" * 1000)
    texts = [d.text for d in read_documents([STDIN], stdin="auto", part_characters=100)]
    assert "".join(texts) == "line\n" * 1000
    assert max(map(len, texts)) <= 100


@pytest.mark.parametrize(
    ("content", "stdin", "message"),
    [
        (b"", "auto", "standard input holds no text"),
        (b"good\nbad \xff\n", "auto", "standard input is not UTF-8 text at byte 9"),
        (b"{ text }", "auto", r"standard input:1: not valid JSON.*is it --text-format txt\?"),
        (b"text", "jsonl", "standard input:1: not valid JSON"),
        (lzma.compress(b"text"), "auto", "standard input is compressed; unpack it on the way"),
        (b"text", None, r"standard input \(-\) can be read only once; give text files here"),
    ],
)
def test_bad_standard_input_is_one_line(
    monkeypatch: pytest.MonkeyPatch, content: bytes, stdin: StdinFormat | None, message: str
) -> None:
    _pipe(monkeypatch, content)
    with pytest.raises(DataError, match=message):
        list(read_documents([STDIN], stdin=stdin))


def test_standard_input_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("from a file")
    _pipe(monkeypatch, b"from a pipe")
    documents = read_documents([path, STDIN], stdin="auto")
    assert [(d.group, d.text) for d in documents] == [
        ("a", "from a file"),
        ("stdin", "from a pipe"),
    ]
    assert total_bytes([path, STDIN], stdin="auto") == len("from a file")
    with pytest.raises(DataError, match="given twice"):
        total_bytes([STDIN, STDIN], stdin="auto")
