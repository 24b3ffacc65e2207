"""Settings of the tokenizer commands that read text: train, count, compress, report."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from edgetiny.config.base import Config, setting
from edgetiny.errors import ConfigError

_STDIN = Path("-")
_TEXT_FORMAT = "of --text -, standard input; auto: jsonl if it begins with {"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerTrainConfig(Config):
    stage: ClassVar[str] = "tokenizer_train"

    text: tuple[Path, ...] = setting(help="text file, - for standard input; repeat for more")
    out: Path = setting(help="tokenizer folder to write", writes="folder")
    vocab_size: int = setting(48_000, "pieces, bytes and specials included", minimum=300)
    character_coverage: float = setting(
        0.9995, "share of characters with a piece of their own", minimum=0.9, maximum=1.0
    )
    max_sentences: int = setting(1_000_000, "lines sampled for training", minimum=1)
    text_format: Literal["auto", "txt", "jsonl"] = setting("auto", _TEXT_FORMAT)
    seed: int = setting(0, "seed of the line sample")
    overwrite: bool = setting(False, "replace --out if it exists")

    def check(self) -> None:
        check_text_format(self.text, self.text_format)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerCountConfig(Config):
    stage: ClassVar[str] = "tokenizer_count"

    source: Path = setting(help="tokenizer or checkpoint folder", argument=True)
    text: tuple[Path, ...] = setting(help="text file, - for standard input; repeat for more")
    out: Path = setting(help="counts file to write", writes="file")
    by: Literal["file", "work", "all"] = setting(
        "file", "counts for each text file, for each work in it (at most 128), or for all text"
    )
    text_format: Literal["auto", "txt", "jsonl"] = setting("auto", _TEXT_FORMAT)
    processes: int = setting(0, "tokenizer processes; 0 means one per core", minimum=0)
    overwrite: bool = setting(False, "replace --out if it exists")

    def check(self) -> None:
        check_text_format(self.text, self.text_format)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerMergeCountsConfig(Config):
    stage: ClassVar[str] = "tokenizer_merge-counts"
    updates: ClassVar[bool] = True

    counts: tuple[Path, ...] = setting(help="counts files of one tokenizer", argument=True)
    out: Path = setting(help="counts file to write", writes="file")
    overwrite: bool = setting(False, "replace --out if it exists")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerCompressConfig(Config):
    """Exactly one of `vocab_size`, `coverage` and `auto` says how large the result is."""

    stage: ClassVar[str] = "tokenizer_compress"

    source: Path = setting(
        help="checkpoint folder (embedding and head are sliced too) or tokenizer", argument=True
    )
    out: Path = setting(help="folder to write", writes="folder")
    text: tuple[Path, ...] = setting(
        (), "text whose tokens are counted, and their growth reported; repeat for more"
    )
    counts: Path | None = setting(None, "counts file to choose by, instead of counting --text")
    vocab_size: int | None = setting(None, "pieces to keep, bytes and specials included", minimum=1)
    coverage: float | None = setting(
        None,
        "or: the fewest pieces that cover this share of the tokens",
        minimum=0.0,
        maximum=1.0,
    )
    auto: bool = setting(False, "or: the size that tokenizer report recommends")
    max_growth: float | None = setting(
        None, "with --auto: most growth in tokens, 0.05 if not given", minimum=0.0
    )
    keep: Path | None = setting(None, "file with a piece or a text a line; their tokens stay")
    retrain: bool = setting(False, "learn new pieces from --text instead of keeping old ones")
    processes: int = setting(0, "tokenizer processes; 0 means one per core", minimum=0)
    overwrite: bool = setting(False, "replace --out if it exists")

    def check(self) -> None:
        sizes = (self.vocab_size is not None, self.coverage is not None, self.auto)
        if sum(sizes) != 1:
            raise ConfigError("give one of --vocab-size, --coverage and --auto: how small to go")
        if not self.text and self.counts is None:
            raise ConfigError("give --text or --counts: which tokens are needed")
        if self.auto and not self.text:
            raise ConfigError("--auto measures growth on text; give --text as well")
        if self.max_growth is not None and not self.auto:
            raise ConfigError("--max-growth bounds what --auto chooses; give it with --auto")
        if _STDIN in self.text:
            raise ConfigError(
                "compress reads its text more than once, so not from standard input; first"
                " edgetiny tokenizer count --text - --out counts.json, then --counts counts.json"
            )
        if self.retrain and (self.vocab_size is None or not self.text):
            raise ConfigError("--retrain learns --vocab-size pieces from --text; give both")
        if self.retrain and (self.counts is not None or self.keep is not None):
            raise ConfigError("--retrain keeps no pieces: --counts and --keep would do nothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerReportConfig(Config):
    stage: ClassVar[str] = "tokenizer_report"

    source: Path = setting(help="tokenizer or checkpoint folder", argument=True)
    text: tuple[Path, ...] = setting(help="text file, - for standard input; repeat for more")
    counts: Path | None = setting(None, "counts file to choose by, instead of counting --text")
    out: Path | None = setting(None, "HTML file to write", writes="file")
    vocab_size: tuple[int, ...] = setting(
        (), "size to report; repeat for more (round ones if not given)", minimum=1
    )
    max_growth: float = setting(
        0.05, "growth in tokens that a recommendation may cost", minimum=0.0
    )
    hidden_size: int | None = setting(
        None, "width of the model to come, for a tokenizer alone; 1792 if not given", minimum=8
    )
    intermediate_size: int | None = setting(
        None, "its FFN width; 8/3 of the width, in steps of 256, if not given", minimum=1
    )
    num_hidden_layers: int | None = setting(
        None, "its depth; what comes nearest to 0.96e9 parameters if not given", minimum=1
    )
    tie_word_embeddings: bool = setting(False, "it has one tensor for embedding and head")
    tok_s: float | None = setting(
        None, "tokens a second of the model, to show bytes of text a second", minimum=0.0
    )
    result: Path | None = setting(None, "bench result to take --tok-s from: its fastest row")
    text_format: Literal["auto", "txt", "jsonl"] = setting("auto", _TEXT_FORMAT)
    processes: int = setting(0, "tokenizer processes; 0 means one per core", minimum=0)
    overwrite: bool = setting(False, "replace --out if it exists")

    def check(self) -> None:
        check_text_format(self.text, self.text_format)
        if self.tok_s is not None and self.result is not None:
            raise ConfigError("--tok-s and --result both say how fast the model is; give one")
        if self.overwrite and self.out is None:
            raise ConfigError("--overwrite replaces --out, which is not given")


def check_text_format(text: tuple[Path, ...], text_format: str) -> None:
    """Raise ConfigError if a format is given for a standard input that is not read."""
    if text_format != "auto" and _STDIN not in text:
        raise ConfigError(
            f"--text-format {text_format} is for standard input; add --text - or leave it out"
        )
