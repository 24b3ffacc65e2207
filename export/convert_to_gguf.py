"""Run llama.cpp's own converter on a folder whose tokenizer is compact.

    python export/convert_to_gguf.py --converter llama.cpp/convert_hf_to_gguf.py \
        --original BIG SMALL --outfile small.gguf [more arguments of the converter]

llama.cpp knows a byte-level tokenizer by a checksum over the ids of a probe text, which none with
other ids has. What the checksum stands for, how text is split before merging, is the same in the
original and in the compact tokenizer. So the converter is given the name that it finds for the
original: `--original` is its folder or tokenizer.json, `--pre` the name itself. SentencePiece BPE
needs neither.

Three more things are mended, which concern originals and compact tokenizers alike. The converter
writes a unigram tokenizer.model of a LLaMA as BPE; here it becomes unigram (`t5`). Of a
tokenizer.json with byte fallback it forgets the order of the merges; here it becomes the scores.
And a folder without config.json, a tokenizer alone, can be converted with `--vocab-only`.
"""

import argparse
import functools
import importlib
import json
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgetiny.errors import DataError, EdgetinyError
from edgetiny.tokenizer import Tokenizer

# The smallest model that the converter takes for one; with --vocab-only its sizes mean nothing.
STAND_IN = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}


def pre_tokenizer_name(look_up: Callable[[None, Any], str], original: Path) -> str:
    """Return llama.cpp's name for how a byte-level tokenizer splits text before merging.

    look_up: the converter's method. Raises DataError if it does not know the tokenizer.
    """
    transformers = importlib.import_module("transformers")
    if original.is_file():
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(original))
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(original)
    try:
        return look_up(None, tokenizer)
    except NotImplementedError:
        raise DataError(
            f"the converter does not know the pre-tokenizer of {original}; if you know which of"
            " llama.cpp's it is, name it with --pre"
        ) from None


def adapt(conversion: Any, pre: str | None, original: Path | None) -> None:
    """Give the converter the pre-tokenizer's name, unigram models and scores.

    conversion: the converter's package.
    """
    text_model = conversion.TextModel
    write_as_bpe = text_model._set_vocab_sentencepiece
    write_as_unigram = conversion.get_model_class("T5ForConditionalGeneration").set_vocab
    look_up = text_model.get_vocab_base_pre

    def name_of(self: Any, tokenizer: Any) -> str:
        if original is not None:
            return pre_tokenizer_name(look_up, original)
        found: str = pre if pre is not None else look_up(self, tokenizer)
        return found

    def write(self: Any, *arguments: Any, **named: Any) -> None:
        if is_unigram(self.dir_model / "tokenizer.model"):
            write_as_unigram(self)
        else:
            write_as_bpe(self, *arguments, **named)

    def score_of(self: Any, index: int) -> float:
        return merge_scores(self.fname_tokenizer).get(index, 0.0)

    text_model.get_vocab_base_pre = name_of
    text_model._set_vocab_sentencepiece = write
    importlib.import_module("gguf").LlamaHfVocab.get_token_score = score_of


@functools.cache
def merge_scores(file: Path) -> dict[int, float]:
    """Return what a SentencePiece model would score each token that merging builds."""
    model = json.loads(file.read_text(encoding="utf-8"))["model"]
    scores: dict[int, float] = {}
    for rank, merge in enumerate(model["merges"]):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        scores.setdefault(model["vocab"]["".join(parts)], float(-rank))
    return scores


def is_unigram(model_file: Path) -> bool:
    """Whether a file exists and is a SentencePiece unigram model."""
    protobuf = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    if not model_file.is_file():
        return False
    proto = protobuf.ModelProto.FromString(model_file.read_bytes())
    return bool(proto.trainer_spec.model_type == protobuf.TrainerSpec.UNIGRAM)


@contextmanager
def with_config(folder: Path) -> Iterator[Path]:
    """Yield a folder that has a config.json: this one, or a copy of a tokenizer beside one."""
    if (folder / "config.json").is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="edgetiny-") as name:
        copy = Path(name) / folder.name
        shutil.copytree(folder, copy)
        config = STAND_IN | {"vocab_size": Tokenizer.open(folder).vocab_size}
        (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield copy


def convert(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Run the converter in this process, adapted."""
    has_config = (options.folder / "config.json").is_file()
    if not has_config and "--vocab-only" not in arguments:
        raise DataError(f"{options.folder} holds no config.json: a tokenizer takes --vocab-only")
    sys.path.insert(0, str(options.converter.parent))
    try:
        conversion = importlib.import_module("conversion")
    except ImportError as error:
        raise DataError(
            f"{options.converter} is not a converter that this program knows ({error}); take"
            " convert_hf_to_gguf.py of a llama.cpp that has a folder conversion/ beside it"
        ) from None
    adapt(conversion, options.pre, options.original)
    with with_config(options.folder) as folder:
        sys.argv = [str(options.converter), str(folder), *arguments]
        runpy.run_path(str(options.converter), run_name="__main__")


def main() -> None:
    """Convert, or say in one line why not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="checkpoint or tokenizer folder to convert")
    parser.add_argument("--converter", type=Path, required=True, help="convert_hf_to_gguf.py")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--original", type=Path, help="what the tokenizer was compressed from")
    which.add_argument("--pre", help="llama.cpp's name of the pre-tokenizer")
    options, arguments = parser.parse_known_args()
    try:
        convert(options, arguments)
    except EdgetinyError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
