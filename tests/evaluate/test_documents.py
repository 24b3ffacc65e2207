import math
from pathlib import Path

import numpy as np
import pytest

from edgetiny.config.data import DataBuildConfig
from edgetiny.data import Shards
from edgetiny.data.build import run as build
from edgetiny.evaluate import ScoredDocument, documents_of_split, documents_of_texts
from edgetiny.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def two_groups(
    tmp_path_factory: pytest.TempPathFactory, tiny_text: Path, tiny_tokenizer: Path
) -> Shards:
    folder = tmp_path_factory.mktemp("groups")
    lines = [line for line in tiny_text.read_text(encoding="utf-8").splitlines() if line]
    for name, part in (("one", lines[::2]), ("two", [line.upper() for line in lines[1::2]])):
        (folder / f"{name}.txt").write_text("\n".join(part), encoding="utf-8")
    return build(
        DataBuildConfig(
            text=(folder / "one.txt", folder / "two.txt"),
            tokenizer=tiny_tokenizer,
            out=folder / "shards",
            valid_fraction=0.3,
            processes=1,
        )
    )


def test_all_of_a_split_is_every_document_once(two_groups: Shards) -> None:
    split = two_groups.valid
    documents = list(documents_of_split(split, has_start=True))
    assert len(documents) == split.n_documents
    assert sum(len(each.tokens) for each in documents) == len(split.tokens)
    assert sum(each.text_bytes for each in documents) == split.document_bytes.sum()
    assert {each.group for each in documents} == {"one", "two"}


def test_a_limit_holds_for_each_group(two_groups: Shards) -> None:
    documents = list(documents_of_split(two_groups.valid, True, tokens_per_group=100))
    for group in ("one", "two"):
        scored = [len(each.tokens) - 1 for each in documents if each.group == group]
        assert sum(scored) == 100


def test_the_part_is_always_the_same(two_groups: Shards) -> None:
    first, second = (
        [each.tokens.tolist() for each in documents_of_split(two_groups.valid, True, 50)]
        for _ in range(2)
    )
    assert first == second


def test_a_cut_document_pays_for_its_share_of_bytes() -> None:
    document = ScoredDocument(tokens=np.arange(11), has_start=True, text_bytes=50.0, group="x")
    cut = document.first(4)
    assert cut.tokens.tolist() == [0, 1, 2, 3, 4]
    assert cut.text_bytes == 20.0
    assert document.first(10) is document
    assert document.first(99) is document
    bare = ScoredDocument(tokens=np.arange(10), has_start=False, text_bytes=50.0, group="x")
    assert len(bare.first(4).tokens) == 4
    assert bare.first(4).text_bytes == 20.0


def test_texts_are_read_whole(tiny_text: Path, tiny_tokenizer: Path) -> None:
    tokenizer = Tokenizer.open(tiny_tokenizer)
    [document] = documents_of_texts([tiny_text], tokenizer, tokenizer.bos_id)
    text = tiny_text.read_text(encoding="utf-8")
    assert document.tokens[0] == tokenizer.bos_id
    assert document.tokens[1:].tolist() == tokenizer.encode(text)
    assert document.text_bytes == len(text.encode())
    assert document.group == "topics"
    [cut] = documents_of_texts([tiny_text], tokenizer, tokenizer.bos_id, tokens_per_group=10)
    assert len(cut.tokens) == 11
    assert math.isclose(cut.text_bytes, document.text_bytes * 10 / (len(document.tokens) - 1))
