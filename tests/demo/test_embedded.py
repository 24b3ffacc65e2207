import json

from edgetiny.console import QUIET
from edgetiny.demo.embedded import write_embedded_text
from edgetiny.text import work_of


def test_embedded_text_is_english_stops_at_its_size_and_repeats_nothing(tmp_path):
    path = write_embedded_text(tmp_path / "text.jsonl", QUIET, max_bytes=700_000)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    size = sum(len(row["text"].encode()) for row in rows)
    assert 700_000 <= size < 1_000_000
    assert len({row["text"] for row in rows}) == len(rows)
    words = " ".join(row["text"] for row in rows).split()
    assert words.count("the") / len(words) > 0.02


def test_a_module_is_one_work(tmp_path):
    path = write_embedded_text(tmp_path / "text.jsonl", QUIET, max_bytes=600_000)
    sources = [json.loads(line)["source"] for line in path.read_text().splitlines()]
    assert len({work_of(source) for source in sources}) == len(sources)
