import random

import pytest

from edgetiny.data.holdout import Holdout, cut_near
from edgetiny.text import Document, work_of


def _documents(group: str, works: dict[str, list[int]]) -> list[Document]:
    """Return documents of the given sizes, the works interleaved."""
    rng = random.Random(0)
    documents = [
        Document("".join(rng.choices("ab \n", k=size)), f"{work}#{part}", group)
        for work, sizes in works.items()
        for part, size in enumerate(sizes)
    ]
    rng.shuffle(documents)
    return documents


def _split(
    documents: list[Document], fraction: float, seed: int = 0
) -> tuple[list[Document], list[Document], dict[str, str]]:
    holdout = Holdout(fraction, seed)
    holdout.survey(documents)
    sides: tuple[list[Document], list[Document]] = ([], [])
    for document, is_held_out in holdout.split(documents):
        sides[is_held_out].append(document)
    return *sides, holdout.rules()


def _works(documents: list[Document]) -> set[str]:
    return {work_of(document.source or "") for document in documents}


@pytest.mark.parametrize("seed", range(5))
def test_no_work_is_on_both_sides(seed: int) -> None:
    documents = _documents("en", {f"work {i}": [50, 60, 70] for i in range(200)})
    train, valid, rules = _split(documents, 0.1, seed)
    assert not _works(train) & _works(valid)
    assert len(train) + len(valid) == len(documents)
    assert len(_works(valid)) == 20
    assert rules == {"en": "works"}


def test_of_very_many_works_a_share_by_hash_is_held_out() -> None:
    works = {f"work {i}": [1] for i in range(6000)}
    _, before, _ = _split(_documents("en", works), 0.1)
    # Five standard deviations of 6000 draws at 0.1.
    assert abs(len(before) - 600) < 5 * (6000 * 0.1 * 0.9) ** 0.5
    more = works | {f"other {i}": [1] for i in range(1000)}
    _, after, _ = _split(_documents("en", more), 0.1)
    assert _works(before) == {work for work in _works(after) if work in works}


@pytest.mark.parametrize("seed", range(10))
def test_the_held_out_share_is_near_the_asked_one(seed: int) -> None:
    rng = random.Random(seed)
    works = {f"work {i}": [rng.choice([10, 30, 200, 1500])] for i in range(60)}
    documents = _documents("en", works | {"huge": [9000]})
    _, valid, _ = _split(documents, 0.05, seed)
    budget = 0.05 * sum(len(document.text) for document in documents)
    sizes = [sum(works[work]) for work in _works(valid)]
    # The last work taken may overshoot by half of itself, the next one was further off.
    assert abs(sum(sizes) - budget) <= 1500 / 2
    assert max(sizes) <= budget


def test_seed_and_fraction_matter() -> None:
    documents = _documents("en", {f"work {i}": [50] for i in range(100)})
    held_out = {(f, s): _works(_split(documents, f, s)[1]) for f in (0.1, 0.3) for s in (0, 1)}
    assert held_out[0.1, 0] != held_out[0.1, 1]
    assert held_out[0.1, 0] < held_out[0.3, 0]


@pytest.mark.parametrize("fraction", [0.001, 0.02, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(10))
def test_with_several_works_neither_side_is_empty(fraction: float, seed: int) -> None:
    documents = _documents("a", {"x": [900, 900], "y": [50], "z": [400]})
    documents += _documents("b", {"u": [100], "v": [100]})
    train, valid, _ = _split(documents, fraction, seed)
    for side in (train, valid):
        assert {document.group for document in side} == {"a", "b"}


def test_the_shortest_is_held_out_where_all_are_longer_than_the_share() -> None:
    documents = _documents("a", {"huge": [9000], "small": [100], "middle": [2000]})
    assert {work for s in range(9) for work in _works(_split(documents, 0.001, s)[1])} == {"small"}


def test_documents_without_source_are_works_and_copies_stay_together() -> None:
    texts = [f"text number {i % 100}" for i in range(300)]
    documents = [Document(text, None, "en") for text in texts]
    train, valid, rules = _split(documents, 0.2)
    assert not {document.text for document in train} & {document.text for document in valid}
    assert len(valid) % 3 == 0
    assert len(valid) > 0
    assert rules == {"en": "works"}


@pytest.mark.parametrize("sizes", [[10_000], [500] * 20, [9_000, 10, 10]])
@pytest.mark.parametrize("fraction", [0.02, 0.3])
def test_of_a_single_work_the_tail_is_held_out(sizes: list[int], fraction: float) -> None:
    rng = random.Random(1)
    words = ["word ", "中文", "line\n", "é "]
    documents = [Document("".join(rng.choices(words, k=size)), "book", "en") for size in sizes]
    train, valid, rules = _split(documents, fraction)
    assert rules == {"en": "tail"}
    whole = "".join(document.text for document in documents)
    assert "".join(document.text for document in [*train, *valid]) == whole
    tail_bytes = sum(len(document.text.encode()) for document in valid)
    assert tail_bytes / len(whole.encode()) == pytest.approx(fraction, abs=0.01)


def test_the_tail_begins_a_line_where_it_can() -> None:
    document = Document("a line of text\n" * 400, None, "en")
    train, valid, _ = _split([document], 0.1)
    assert train[0].text.endswith("\n")
    assert valid[0].text.startswith("a line")


def test_fraction_zero_holds_nothing_out() -> None:
    documents = _documents("a", {"x": [50], "y": [50]}) + _documents("b", {"z": [50]})
    train, valid, rules = _split(documents, 0.0)
    assert (train, valid) == (documents, [])
    assert rules == {"a": "none", "b": "none"}


@pytest.mark.parametrize(
    "text", ["a", "ab", "中", "a\n", "x" * 100, "a b c d", "\n\n\na", "a   \n\n"]
)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.98, 1.0])
def test_a_cut_leaves_text_on_both_sides_or_does_not_cut(text: str, share: float) -> None:
    cut = cut_near(text, share)
    assert 0 < cut <= len(text)
    assert cut == len(text) or text[cut:].strip()
