"""A compact tokenizer gives the same ids in programs that are not ours."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sentencepiece

from edgetiny.config.tokenizer import TokenizerCompressConfig
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.compress import run

Encode = Callable[[str], list[int]]

CONVERTER = Path(__file__).parents[2] / "export" / "convert_to_gguf.py"
SIZES = {
    "tiny": 400,
    "mistral_v1_32k.model": 8_000,
    "internlm_v7_sft.model": 16_000,
    "gpt_neox_20B_tokenizer.json": 16_000,
    "sp_test_unigram1k.model": 700,
}
# Left out are texts that some of the programs take otherwise in any tokenizer: U+2581 and NUL,
# special tokens written out, and characters that NFC changes.
ODD_TEXTS = [
    "",
    " ",
    "  two  spaces ",
    "\n\n\n  x\t\t\r\n\r\n{\r\n}",
    "\x01\x02\x1b[0m\x7f\ufeff\u00a0\u3000",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 12345 3.14159",
    "\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469 \u0928\u092e\u0938\u094d\u0924\u0947",
    "don't I'LL we've",
    "<eoh> <|not special|>",
    "ab" * 100,
    *(f"a{' ' * count}b{chr(10) * count}c" for count in (2, 3, 5, 24)),
]


@pytest.fixture(scope="module", params=SIZES)
def compact(
    request: pytest.FixtureRequest,
    tiny_tokenizer: Path,
    tiny_text: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return a folder with a compact tokenizer: of the tiny one, and of each real one there is."""
    source, text = tiny_tokenizer, tiny_text
    folder = tmp_path_factory.mktemp("compact")
    if request.param != "tiny":
        source = request.getfixturevalue("shared_data") / "tokenizers" / request.param
        text = folder / "text.jsonl"
        real_text = request.getfixturevalue("real_text")
        texts = [*real_text["en"], *real_text["zh"]]
        text.write_text("".join(json.dumps({"text": each[:2000]}) + "\n" for each in texts))
    out, size = folder / "compact", SIZES[request.param]
    run(TokenizerCompressConfig(source=source, text=(text,), vocab_size=size, out=out))
    return out


@pytest.fixture
def texts(tiny_text: Path, request: pytest.FixtureRequest) -> list[str]:
    """Return odd strings and lines of English, of Chinese too where there is real text."""
    lines = tiny_text.read_text(encoding="utf-8").split("\n")[:300]
    if request.node.callspec.params["compact"] != "tiny":
        lines += [text[:1000] for text in request.getfixturevalue("real_text")["zh"]]
    return [*ODD_TEXTS, *lines]


def assert_same_ids(folder: Path, encode: Encode, texts: list[str]) -> None:
    tokenizer = Tokenizer.open(folder)
    for text in texts:
        assert list(encode(text)) == tokenizer.encode(text), text[:80]


def the(file: str, folder: Path) -> str:
    if not (folder / file).is_file():
        pytest.skip(f"this kind has no {file}")
    return str(folder / file)


def test_sentencepiece(compact: Path, texts: list[str]) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=the("tokenizer.model", compact))
    assert_same_ids(compact, processor.encode, texts)


@pytest.mark.parametrize("use_fast", [True, False], ids=["fast", "slow"])
def test_transformers(compact: Path, texts: list[str], use_fast: bool) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(compact, use_fast=use_fast)
    if tokenizer.is_fast != use_fast:
        pytest.skip("this kind has no slow tokenizer")
    assert len(tokenizer) == Tokenizer.open(compact).vocab_size
    assert_same_ids(compact, lambda text: tokenizer.encode(text, add_special_tokens=False), texts)


def test_executorch_with_tokenizer_json(compact: Path, texts: list[str]) -> None:
    module = pytest.importorskip("pytorch_tokenizers")
    path = the("tokenizer.json", compact)
    if json.loads(Path(path).read_text(encoding="utf-8"))["model"]["type"] != "BPE":
        pytest.skip("it reads BPE only")
    tokenizer = module.CppHFTokenizer()
    tokenizer.load(path)
    assert_same_ids(compact, lambda text: tokenizer.encode(text, 0, 0), texts)
    # Of a folder it reads which tokens begin and end a text.
    tokenizer = module.CppHFTokenizer()
    tokenizer.load(str(compact))
    ours = Tokenizer.open(compact)
    if ours.bos_id is not None:
        assert (tokenizer.bos_tok(), tokenizer.eos_tok()) == (ours.bos_id, ours.eos_id)


def test_executorch_with_tokenizer_model(compact: Path, texts: list[str]) -> None:
    module = pytest.importorskip("pytorch_tokenizers")
    path = the("tokenizer.model", compact)
    in_python = module.Llama2cTokenizer(model_path=path)
    assert_same_ids(compact, lambda text: in_python.encode(text, bos=False, eos=False), texts)
    tokenizer = module.CppSPTokenizer()
    tokenizer.load(path)
    assert_same_ids(compact, lambda text: tokenizer.encode(text, 0, 0), texts)


@pytest.fixture
def converter() -> Path:
    """Return llama.cpp's converter; skip the test where there is none."""
    pytest.importorskip("transformers")
    folder = os.environ.get("EDGETINY_LLAMA_CPP")
    if folder is None:
        pytest.skip("set EDGETINY_LLAMA_CPP to a llama.cpp folder to run this test")
    return Path(folder) / "convert_hf_to_gguf.py"


def to_gguf(converter: Path, folder: Path, out: Path, *more: str | Path) -> str:
    """Run our program; return what it wrote to standard error."""
    words = [CONVERTER, folder, "--converter", converter, "--vocab-only", "--outfile", out, *more]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)
    assert (done.returncode == 0) == out.exists(), done.stderr
    return done.stderr


def source_of(request: pytest.FixtureRequest) -> Path | None:
    """Return the original of a kind whose pre-tokenizer llama.cpp must be told."""
    name = request.node.callspec.params["compact"]
    return request.getfixturevalue("shared_data") / "tokenizers" / name if "json" in name else None


@pytest.mark.slow
def test_llama_cpp(
    compact: Path,
    texts: list[str],
    converter: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    original = source_of(request)
    if original is not None:
        message = to_gguf(converter, compact, tmp_path / "refused.gguf")
        assert "pre-tokenizer was not recognized" in message
    more = [] if original is None else ["--original", original]
    to_gguf(converter, compact, tmp_path / "vocabulary.gguf", *more)
    model = llama_cpp.Llama(str(tmp_path / "vocabulary.gguf"), vocab_only=True, verbose=False)

    def encode(text: str) -> list[int]:
        found: list[int] = model.tokenize(text.encode("utf-8"), add_bos=False, special=False)
        return found

    assert_same_ids(compact, encode, texts)


@pytest.fixture(scope="module")
def program() -> Iterator[object]:
    """Return export/convert_to_gguf.py as a module."""
    spec = importlib.util.spec_from_file_location("convert_to_gguf", CONVERTER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scores_order_pieces_as_merges_do(program, tiny_tokenizer: Path) -> None:
    scores = program.merge_scores(tiny_tokenizer / "tokenizer.json")
    proto = Tokenizer.open(tiny_tokenizer).proto
    built = sorted(scores)
    assert len(built) > 100
    by_ours = sorted(built, key=lambda index: -scores[index])
    assert by_ours == sorted(built, key=lambda index: -proto.pieces[index].score)


def test_a_unigram_model_is_recognised(program, tiny_tokenizer: Path, shared_data: Path) -> None:
    assert program.is_unigram(shared_data / "tokenizers" / "sp_test_unigram1k.model")
    assert not program.is_unigram(tiny_tokenizer / "tokenizer.model")
    assert not program.is_unigram(tiny_tokenizer / "missing.model")


def test_converter_says_what_it_cannot_do(tmp_path: Path, tiny_tokenizer: Path) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(tiny_tokenizer, folder)
    message = to_gguf(tmp_path / "nowhere.py", folder, tmp_path / "out.gguf")
    assert message.startswith("error: ")
    assert "is not a converter" in message
    words = [CONVERTER, folder, "--converter", tmp_path / "nowhere.py"]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)
    assert "holds no config.json: a tokenizer takes --vocab-only" in done.stderr
