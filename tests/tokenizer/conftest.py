"""A model file made by hand, small enough to reason about, and texts for every model."""

import io
import json
import lzma
import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers

from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.as_json import tokenizer_json
from edgetiny.tokenizer.model_file import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, protobuf


@pytest.fixture
def make_tokenizer(tmp_path: Path) -> Callable[..., Tokenizer]:
    """Return a maker of BPE tokenizers from pieces, the first the best to merge."""

    def make(
        pieces: Iterable[str],
        *,
        user_defined: Iterable[str] = (),
        has_bytes: bool = True,
        dummy_prefix: bool = False,
        scores: Iterable[float] | None = None,
    ) -> Tokenizer:
        proto = protobuf.ModelProto()
        proto.trainer_spec.model_type = protobuf.TrainerSpec.BPE
        proto.trainer_spec.byte_fallback = has_bytes
        proto.normalizer_spec.name = "identity"
        proto.normalizer_spec.add_dummy_prefix = dummy_prefix
        proto.normalizer_spec.remove_extra_whitespaces = False

        def add(piece: str, kind: int, score: float = 0.0) -> None:
            proto.pieces.add(piece=piece, type=kind, score=score)

        add("<unk>", UNKNOWN)
        add("<s>", CONTROL)
        add("</s>", CONTROL)
        for piece in user_defined:
            add(piece, USER_DEFINED)
        for byte in range(256) if has_bytes else ():
            add(f"<0x{byte:02X}>", BYTE)
        listed = list(pieces)
        for piece, score in zip(listed, scores or range(0, -len(listed), -1), strict=True):
            add(piece, NORMAL, score)
        path = tmp_path / "made.model"
        path.write_bytes(proto.SerializeToString())
        return Tokenizer.open(path)

    return make


@pytest.fixture(scope="session")
def random_texts() -> list[str]:
    """Return 10,000 short texts of characters of every plane, with spaces and line ends."""
    rng = random.Random(0)

    def character() -> str:
        found = chr(rng.randrange(rng.choice((0x80, 0x400, 0x10000, 0x110000))))
        # A surrogate is half a character.
        return rng.choice(" \n") if rng.random() < 0.2 or "\ud800" <= found <= "\udfff" else found

    return ["".join(character() for _ in range(rng.randrange(30))) for _ in range(10_000)]


@pytest.fixture(scope="session")
def real_text(shared_data: Path) -> dict[str, list[str]]:
    """Return the first 60 documents of real English and of real Chinese."""
    return {name: _first(shared_data / "text" / f"{name}.jsonl.xz", 60) for name in ("en", "zh")}


def _first(path: Path, count: int) -> list[str]:
    texts: list[str] = []
    with lzma.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            record: dict[str, Any] = json.loads(line)
            texts.append(record["text"])
            if len(texts) == count:
                break
    return texts


@pytest.fixture(scope="session")
def kinds(
    shared_data: Path, real_text: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Return a folder of each kind of tokenizer."""
    out = tmp_path_factory.mktemp("kinds")
    source = shared_data / "tokenizers"
    names = {
        "sp_bytes": "mistral_v1_32k.model",
        "neox": "gpt_neox_20B_tokenizer.json",
        "user_defined": "internlm_v7_sft.model",
        "unigram": "sp_test_unigram1k.model",
    }
    for kind, name in names.items():
        (out / kind).mkdir()
        shutil.copy(source / name, out / kind / f"tokenizer{Path(name).suffix}")
    (out / "normalizing").mkdir()
    lines = [text[:2_000] for text in real_text["en"] + real_text["zh"]]
    _train_model(out / "normalizing" / "tokenizer.model", lines)
    (out / "byte_level").mkdir()
    _train_byte_level(out / "byte_level" / "tokenizer.json", lines)
    for kind, of in (("json_bytes", "sp_bytes"), ("json_plain", "normalizing")):
        (out / kind).mkdir()
        payload = tokenizer_json(Tokenizer.open(out / of).proto)
        (out / kind / "tokenizer.json").write_text(json.dumps(payload))
    return {path.name: path for path in out.iterdir()}


def _train_model(path: Path, lines: list[str]) -> None:
    """Train a BPE model without byte fallback that normalizes and drops repeated spaces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=6_000,
        character_coverage=0.999,
        normalization_rule_name="nmt_nfkc",
        minloglevel=4,
    )
    path.write_bytes(model.getvalue())


def _train_byte_level(path: Path, lines: list[str]) -> None:
    """Train a byte-level BPE that composes characters and has runs of spaces as added tokens."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=3_000,
        special_tokens=["<|end|>"],
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_tokens(
        [tokenizers.AddedToken(" " * count, normalized=True) for count in range(8, 1, -1)]
    )
    tokenizer.save(str(path))
