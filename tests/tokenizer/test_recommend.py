from collections.abc import Callable
from pathlib import Path

import pytest

from edgetiny.cli import main
from edgetiny.text import Document
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.count import count_tokens
from edgetiny.tokenizer.recommend import recommend
from edgetiny.tokenizer.sample import Sample
from edgetiny.tokenizer.shape import Shape
from edgetiny.tokenizer.trial import Trials

SMALL_TABLES = Shape.of_design(64, 256, 40)
LARGE_TABLES = Shape.of_design(64, 64, 1)


@pytest.fixture
def make_trials(tmp_path: Path, tiny_tokenizer: Path) -> Callable[[str], Trials]:
    """Return a maker of trials for a text."""

    def make(text: str) -> Trials:
        path = tmp_path / "text.txt"
        path.write_text(text, encoding="utf-8")
        tokenizer, sample = Tokenizer.open(tiny_tokenizer), Sample()
        counts = count_tokens(tokenizer, [path], watch=sample.add)
        return Trials(tokenizer, counts, (), sample)

    return make


@pytest.fixture
def easy(make_trials: Callable[[str], Trials]) -> Trials:
    """Trials for a text of few different tokens."""
    return make_trials("the cat and the dog and " * 6000)


def test_the_smallest_size_that_holds_is_recommended(easy: Trials) -> None:
    found = recommend(easy, SMALL_TABLES)
    assert found.size is not None
    trial = easy.at(found.size)
    assert trial.coverage >= 0.9
    assert trial.worst_growth <= 0.05
    if found.size > easy.sizes[0]:
        below = easy.at(found.size - 64)
        assert below.coverage < 0.9 or below.worst_growth > 0.05
    assert found.advice == []
    assert "is the smallest size that holds: coverage" in found.reasons[0]


def test_tables_that_are_too_large_are_no_recommendation(easy: Trials) -> None:
    found = recommend(easy, LARGE_TABLES)
    assert found.size is None
    assert "not under 20%" in found.reasons[-1]
    assert "tie the embeddings" in found.advice[0]
    assert "take a larger model" in found.advice[1]


def test_without_a_size_that_holds_the_reason_is_told(
    make_trials: Callable[[str], Trials], tiny_text: Path
) -> None:
    found = recommend(make_trials(tiny_text.read_text(encoding="utf-8")), SMALL_TABLES, 0.0)
    assert found.size is None
    assert "no size holds" in found.reasons[0]
    assert "coverage" in found.reasons[0]


def test_little_text_is_advised_against(make_trials: Callable[[str], Trials]) -> None:
    found = recommend(make_trials("the cat and the dog"), SMALL_TABLES)
    assert "give more text" in found.advice[-1]


def test_auto_takes_the_recommendation(
    tmp_path: Path, tiny_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat and the dog and " * 3000)
    words = ["tokenizer", "compress", str(tiny_tokenizer), "--text", str(text), "--auto"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "is the smallest size that holds" in capsys.readouterr().err
    rows = Tokenizer.open(tmp_path / "out").vocab_size
    assert rows % 64 == 0


def test_a_sample_is_bounded_and_spread() -> None:
    sample = Sample(limit_bytes=1 << 20)
    texts = [f"{number:04d}" + "x" * 20_000 for number in range(400)]
    for text in texts:
        sample.add(Document(text, None, "en"))
    blocks = [block for block in sample.texts("en") if block[:4].isdigit()]
    assert sum(len(block) for block in sample.texts("en")) == sample.bytes("en") <= 1 << 20
    assert sample.bytes("en") > 1 << 18
    quarters = [int(block[:4]) // 100 for block in blocks]
    assert max(quarters.count(q) for q in range(4)) <= 2 * min(quarters.count(q) for q in range(4))
    all_text = "\u4e2d\u6587" * 100_000
    small = Sample()
    small.add(Document(all_text, None, "zh"))
    assert "".join(small.texts("zh")) == all_text
