"""Above all the invariant: a text whose every token is kept is tokenized as before."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetiny.errors import ConfigError
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.model_file import keep_pieces
from edgetiny.tokenizer.select import coverage_curve, select
from edgetiny.tokenizer.vocabulary import sentencepiece_bpe_vocabulary

MakeTokenizer = Callable[..., Tokenizer]


def _counts(tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for text in texts:
        np.add.at(counts, tokenizer.encode(text), 1)
    return counts


def _chosen(tokenizer: Tokenizer, counts: np.ndarray, size: int, **settings: Any) -> list[int]:
    vocabulary = sentencepiece_bpe_vocabulary(tokenizer.proto)
    return select(vocabulary, vocabulary.gains(counts), size, **settings)


def _compact(tokenizer: Tokenizer, kept: list[int], folder: Path) -> Tokenizer:
    path = folder / f"compact-{len(kept)}.model"
    path.write_bytes(keep_pieces(tokenizer.proto, kept))
    return Tokenizer.open(path)


def _agreement(
    tokenizer: Tokenizer, compact: Tokenizer, kept: list[int], texts: Sequence[str]
) -> tuple[int, int, int]:
    """Return how many texts are fully kept, how many of them are tokenized otherwise, and rest."""
    new = {old: index for index, old in enumerate(kept)}
    n_kept = n_wrong = 0
    for text in texts:
        ids = tokenizer.encode(text)
        if all(index in new for index in ids):
            n_kept += 1
            n_wrong += compact.encode(text) != [new[index] for index in ids]
        assert compact.decode(compact.encode(text)) == text
    return n_kept, n_wrong, len(texts) - n_kept


def _naive(tokenizer: Tokenizer, counts: np.ndarray, size: int) -> list[int]:
    """Keep the most frequent pieces and nothing else, as the paper's scripts do."""
    mandatory = sentencepiece_bpe_vocabulary(tokenizer.proto).mandatory
    by_count = sorted(range(len(counts)), key=lambda index: (-int(counts[index]), index))
    others = [index for index in by_count if index not in mandatory]
    return sorted([*mandatory, *others[: size - len(mandatory)]])


def _words(texts: Sequence[str]) -> list[str]:
    return sorted({word for text in texts for word in text.split()})


@pytest.mark.parametrize("size", [300, 350, 420, 500])
def test_fully_kept_text_is_tokenized_as_before(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path, size: int
) -> None:
    tokenizer = Tokenizer.open(tiny_tokenizer)
    lines = tiny_text.read_text(encoding="utf-8").split("\n")
    counts = _counts(tokenizer, lines)
    kept = _chosen(tokenizer, counts, size)
    compact = _compact(tokenizer, kept, tmp_path)
    for texts in (lines, _words(lines), [word[:3] for word in _words(lines)]):
        n_kept, n_wrong, n_rest = _agreement(tokenizer, compact, kept, texts)
        assert n_wrong == 0
        assert n_kept > 20
        assert n_rest > 20


@pytest.mark.parametrize("size", [4000, 8000])
def test_fully_kept_real_text_is_tokenized_as_before(
    tmp_path: Path, shared_data: Path, real_text: dict[str, list[str]], size: int
) -> None:
    tokenizer = Tokenizer.open(shared_data / "tokenizers" / "mistral_v1_32k.model")
    documents = [text[:8_000] for text in real_text["en"]]
    counts = _counts(tokenizer, documents)
    kept = _chosen(tokenizer, counts, size)
    compact = _compact(tokenizer, kept, tmp_path)
    lines = [line for text in documents for line in text.split("\n")]
    report = {}
    for name, texts in {"documents": documents, "lines": lines, "words": _words(lines)}.items():
        _, n_wrong, _ = report[name] = _agreement(tokenizer, compact, kept, texts)
        assert n_wrong == 0, name
    assert min(report["lines"][0], report["words"][0]) > 500, report
    assert report["words"][2] > 500, report


def test_without_what_builds_them_kept_pieces_are_lost(
    tmp_path: Path, shared_data: Path, real_text: dict[str, list[str]]
) -> None:
    """The invariant is not free: the most frequent pieces alone break it and cost more tokens."""
    tokenizer = Tokenizer.open(shared_data / "tokenizers" / "mistral_v1_32k.model")
    documents = [text[:8_000] for text in real_text["en"]]
    counts = _counts(tokenizer, documents)
    n_tokens = {}
    for name, kept in (
        ("closed", _chosen(tokenizer, counts, 4000)),
        ("naive", _naive(tokenizer, counts, 4000)),
    ):
        compact = _compact(tokenizer, kept, tmp_path)
        _, n_wrong, _ = _agreement(tokenizer, compact, kept, _words(documents))
        assert (n_wrong > 100) == (name == "naive")
        n_tokens[name] = sum(len(compact.encode(text)) for text in documents)
    growth = {name: count / counts.sum() - 1 for name, count in n_tokens.items()}
    assert growth["closed"] < 0.7 * growth["naive"], growth


def test_random_models_keep_the_invariant(make_tokenizer: MakeTokenizer, tmp_path: Path) -> None:
    rng = random.Random(0)
    n_kept_in_all = n_rest_in_all = 0
    for _ in range(60):
        pieces = ["a", "b", "\u2581"]
        while len(pieces) < 40:
            join = rng.choice(pieces) + rng.choice(pieces)
            if join not in pieces:
                pieces.append(join)
        rng.shuffle(pieces)
        tokenizer = make_tokenizer(pieces)
        texts = ["".join(rng.choices("ab ", k=rng.randrange(1, 12))) for _ in range(150)]
        counts = _counts(tokenizer, texts)
        kept = _chosen(tokenizer, counts, 259 + 7)
        compact = _compact(tokenizer, kept, tmp_path)
        n_kept, n_wrong, n_rest = _agreement(tokenizer, compact, kept, texts)
        assert n_wrong == 0
        n_kept_in_all += n_kept
        n_rest_in_all += n_rest
    assert n_kept_in_all > 1000
    assert n_rest_in_all > 1000


def test_a_lost_token_can_change_a_kept_neighbour(
    make_tokenizer: MakeTokenizer, tmp_path: Path
) -> None:
    """Why the invariant speaks of whole texts: what a lost piece held together is free to merge."""
    tokenizer = make_tokenizer(["bc", "cd", "a", "b", "c", "d"])
    ids = {piece.piece: i for i, piece in enumerate(tokenizer.proto.pieces)}
    assert tokenizer.encode("bcd") == [ids["bc"], ids["d"]]
    kept = [index for index in range(tokenizer.vocab_size) if index != ids["bc"]]
    compact = _compact(tokenizer, kept, tmp_path)
    spelled = [compact.token_bytes(index) for index in compact.encode("bcd")]
    assert spelled == [b"b", b"cd"]


def test_size_is_exact_and_order_and_scores_stay(tiny_tokenizer: Path, tiny_text: Path) -> None:
    tokenizer = Tokenizer.open(tiny_tokenizer)
    vocabulary = sentencepiece_bpe_vocabulary(tokenizer.proto)
    counts = _counts(tokenizer, [tiny_text.read_text(encoding="utf-8")[:500]])
    for size in range(len(vocabulary.mandatory), 512):
        kept = select(vocabulary, vocabulary.gains(counts), size)
        assert len(kept) == size
        assert kept == sorted(set(kept))
        assert vocabulary.mandatory <= set(kept)
        assert all(vocabulary.closure(index) <= set(kept) for index in kept)


def test_pieces_that_stay_are_chosen_by_type(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(["a", "b", "<0x41", "ab"], user_defined=["<turn>"])
    vocabulary = sentencepiece_bpe_vocabulary(tokenizer.proto)
    stay = {tokenizer.proto.pieces[index].piece for index in vocabulary.mandatory}
    bytes_ = {f"<0x{byte:02X}>" for byte in range(256)}
    assert stay == {"<unk>", "<s>", "</s>", "<turn>"} | bytes_


def test_without_byte_pieces_no_character_is_lost(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(["ab", "abc", "a", "b", "c", "z"], has_bytes=False)
    kept = _chosen(tokenizer, _counts(tokenizer, ["abc"] * 9), 8)
    pieces = [tokenizer.proto.pieces[index].piece for index in kept]
    assert pieces == ["<unk>", "<s>", "</s>", "ab", "a", "b", "c", "z"]


def test_given_ids_are_kept(tiny_tokenizer: Path) -> None:
    tokenizer = Tokenizer.open(tiny_tokenizer)
    counts = np.zeros(512, dtype=np.int64)
    assert 511 not in _chosen(tokenizer, counts, 300)
    assert 511 in _chosen(tokenizer, counts, 300, mandatory=[511])


def test_impossible_sizes_name_the_possible_ones(tiny_tokenizer: Path) -> None:
    tokenizer = Tokenizer.open(tiny_tokenizer)
    counts = np.ones(512, dtype=np.int64)
    for size in (100, 258, 512, 48_000):
        with pytest.raises(ConfigError, match=r"has 512 pieces.*choose from 259 to 511"):
            _chosen(tokenizer, counts, size)


def test_curve_rises_to_all_and_agrees_with_the_selection(
    tiny_tokenizer: Path, tiny_text: Path
) -> None:
    tokenizer = Tokenizer.open(tiny_tokenizer)
    vocabulary = sentencepiece_bpe_vocabulary(tokenizer.proto)
    counts = _counts(tokenizer, [tiny_text.read_text(encoding="utf-8")])
    gains = vocabulary.gains(counts)
    curve = coverage_curve(vocabulary, counts, gains)
    rows = [int(point["rows"]) for point in curve]
    coverage = [point["coverage"] for point in curve]
    assert rows == sorted(set(rows))
    assert coverage == sorted(coverage)
    assert (rows[0], coverage[-1]) == (259, 1.0)
    assert len(curve) > 10
    for size, share in zip(rows, coverage, strict=True):
        if size < 512:
            kept = select(vocabulary, gains, size)
            assert counts[kept].sum() / counts.sum() >= share - 1e-12
