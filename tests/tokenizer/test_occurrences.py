from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.occurrences import occurrences_in

TEXTS = [
    "a b ab  a   b ",
    " ab ab",
    "ab\n ab\n\n  b a\tb",
    "",
    " ",
    "a",
    "\u4e2d \u6587 ab \u2581 ab",
    "ab ba abba " * 50,
]


def _plain(tokenizer: Tokenizer, texts: list[str]) -> list[tuple[int, int]]:
    ids = np.array([i for text in texts for i in tokenizer.encode(text)], dtype=np.int64)
    found, times = np.unique(ids, return_counts=True)
    return list(zip(found.tolist(), times.tolist(), strict=True))


@pytest.mark.parametrize("has_bytes", [True, False])
@pytest.mark.parametrize("dummy_prefix", [True, False])
@pytest.mark.parametrize("spanning", [[], ["b\u2581", "b\u2581a"], ["\u2581\u2581", "\n\u2581"]])
def test_words_count_as_whole_texts_do(
    make_tokenizer: Callable[..., Tokenizer],
    has_bytes: bool,
    dummy_prefix: bool,
    spanning: list[str],
) -> None:
    pieces = [*spanning, "ab", "\u2581a", "\u2581ab", "ba", "\u2581", "a", "b", "\n"]
    tokenizer = make_tokenizer(pieces, has_bytes=has_bytes, dummy_prefix=dummy_prefix)
    for texts in [*([text] for text in TEXTS), TEXTS]:
        ids, times = occurrences_in(tokenizer, texts)
        found = list(zip(ids.tolist(), times.tolist(), strict=True))
        assert found == _plain(tokenizer, texts)


@pytest.mark.parametrize("name", ["mistral_v1_32k.model", "internlm_v7_sft.model"])
def test_real_words_count_as_whole_texts_do(
    shared_data: Path, real_text: dict[str, list[str]], name: str
) -> None:
    tokenizer = Tokenizer.open(shared_data / "tokenizers" / name)
    texts = [text[:20_000] for texts in real_text.values() for text in texts[:20]]
    ids, times = occurrences_in(tokenizer, texts)
    assert list(zip(ids.tolist(), times.tolist(), strict=True)) == _plain(tokenizer, texts)
