"""What building and losing pieces means, checked against the tokenizers themselves."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.model_file import keep_pieces
from edgetiny.tokenizer.vocabulary import Vocabulary

MakeTokenizer = Callable[..., Tokenizer]


def _counts(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for text in texts:
        np.add.at(counts, tokenizer.encode(text), 1)
    return counts


def test_built_counts_every_step(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(["aa", "aab", "aabaa", "a", "b"])
    vocabulary = tokenizer.vocabulary()
    ids = {piece: index for index, piece in enumerate(vocabulary.pieces)}
    found, times = vocabulary.built(np.array([ids["aabaa"]]), np.array([10]))
    built = {vocabulary.pieces[index]: n for index, n in zip(found, times, strict=True)}
    assert built == {"aabaa": 10, "aab": 10, "aa": 20, "a": 40, "b": 10}
    assert [len(part) for part in vocabulary.built(np.array([], int), np.array([], int))] == [0, 0]


def test_a_part_is_built_at_least_as_often_as_the_whole(
    shared_data: Path, real_text: dict[str, list[str]]
) -> None:
    for name in ("mistral_v1_32k.model", "gpt_neox_20B_tokenizer.json"):
        tokenizer = Tokenizer.open(shared_data / "tokenizers" / name)
        vocabulary = tokenizer.vocabulary()
        counts = _counts(tokenizer, [text[:4000] for text in real_text["en"]])
        ids = np.flatnonzero(counts)
        built = np.zeros(len(counts), dtype=np.int64)
        found, times = vocabulary.built(ids, counts[ids])
        built[found] = times
        assert (built >= counts).all()
        assert len(vocabulary.parts) > 20_000
        for index, parts in vocabulary.parts.items():
            assert all(built[part] >= built[index] for part in parts)


def test_losing_the_last_pieces_costs_their_gains(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    """Where nothing merges with what is left behind, the estimate is exact; nearly so in all."""
    tokenizer = Tokenizer.open(tiny_tokenizer)
    vocabulary = tokenizer.vocabulary()
    text = tiny_text.read_text(encoding="utf-8")
    counts = _counts(tokenizer, [text])
    gains = vocabulary.gains(counts)
    n_exact = 0
    for index in random.Random(0).sample(sorted(vocabulary.parts), 25):
        if any(index in parts for parts in vocabulary.parts.values()):
            continue
        kept = [each for each in range(512) if each != index]
        (tmp_path / "without.model").write_bytes(keep_pieces(tokenizer.proto, kept))
        lost = len(Tokenizer.open(tmp_path / "without.model").encode(text)) - counts.sum()
        assert 0.5 * gains[index] <= lost <= gains[index]
        n_exact += lost == gains[index]
    assert n_exact > 3


def test_unigram_gains_are_what_the_next_best_spelling_costs(
    tmp_path: Path, shared_data: Path, real_text: dict[str, list[str]]
) -> None:
    tokenizer = Tokenizer.open(shared_data / "tokenizers" / "sp_test_unigram1k.model")
    vocabulary: Vocabulary = tokenizer.vocabulary()
    text = " ".join(real_text["en"][0][:20_000].split())
    counts = _counts(tokenizer, [text])
    gains = vocabulary.gains(counts)
    characters = {i for i, piece in enumerate(vocabulary.pieces) if len(piece) == 1}
    assert characters <= vocabulary.mandatory
    used = [i for i in np.flatnonzero(counts).tolist() if i not in vocabulary.mandatory]
    for index in random.Random(0).sample(used, 20):
        kept = [each for each in range(tokenizer.vocab_size) if each != index]
        (tmp_path / "without.model").write_bytes(keep_pieces(tokenizer.proto, kept))
        lost = len(Tokenizer.open(tmp_path / "without.model").encode(text)) - counts.sum()
        # Beside the lost piece a neighbour may be cut otherwise, to fewer tokens as to more.
        assert abs(lost - gains[index]) <= 0.5 * gains[index] + 2
        assert vocabulary.closure(index) == {index}
        assert vocabulary.is_reachable(index)


def test_a_piece_that_never_was_gains_by_its_parts(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(["ab", "cd", "ac", "xy", "a", "b", "c", "d", "x", "y"])
    vocabulary = tokenizer.vocabulary()
    gains = vocabulary.gains(_counts(tokenizer, ["ab"] * 3 + ["c"] * 2 + ["d"]))
    by_piece = dict(zip(vocabulary.pieces, gains.tolist(), strict=True))
    assert by_piece["ab"] == 3
    assert by_piece["ab"] > by_piece["ac"] > by_piece["cd"] > by_piece["xy"] == 0
