"""Train a model of about 5M parameters on real text for some minutes; compare it with xz and zstd.

    python bench/real_text.py --text en.jsonl.xz --text zh.jsonl.xz --out DIR \
        --write docs/results/real_text

Tokenizer of 16k pieces, shards with whole works held out, random weights, one training run, then
held-out bits per byte of each text beside what compressors need for the same bytes: alone, and
after they have seen the whole training text, as the model has. Samples are printed as they come.
`--write` names the results without suffix: `.md` for people and `.json`, both with all rows.
"""

import argparse
import json
import lzma
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.data import DataBuildConfig
from edgetiny.config.model import InitConfig
from edgetiny.config.run import EvalConfig
from edgetiny.config.tokenizer import TokenizerTrainConfig
from edgetiny.config.train import TrainConfig
from edgetiny.console import Reporter
from edgetiny.data import Shards, Split
from edgetiny.data.build import run as build_data
from edgetiny.device import cpu_model
from edgetiny.evaluate.stage import run as evaluate
from edgetiny.generate.stream import Sampling, prompt_ids, stream
from edgetiny.init import run as init
from edgetiny.runtimes import open_runtime
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.train import run as train_tokenizer
from edgetiny.train.stage import run as train

PROBE_STEPS = 12
# Validation at the end and the speed of a busy machine are not known beforehand.
SPARE = 0.95


def prepare(options: argparse.Namespace, reporter: Reporter) -> Shards:
    """Write tokenizer, shards and the checkpoint to start from; keep what is there already."""
    out: Path = options.out
    if not (out / "tokenizer").exists():
        train_tokenizer(
            TokenizerTrainConfig(
                text=tuple(options.text),
                out=out / "tokenizer",
                vocab_size=options.vocab_size,
                max_sentences=options.sentences,
            ),
            reporter,
        )
    if not (out / "shards").exists():
        build_data(
            DataBuildConfig(
                text=tuple(options.text),
                tokenizer=out / "tokenizer",
                out=out / "shards",
                valid_fraction=options.valid_fraction,
            ),
            reporter,
        )
    init(
        InitConfig(
            tokenizer=out / "tokenizer",
            out=out / "start",
            hidden_size=options.hidden_size,
            num_hidden_layers=options.num_hidden_layers,
            num_attention_heads=options.hidden_size // 64 or 1,
            max_position_embeddings=1024,
            overwrite=True,
        ),
        reporter,
    )
    return Shards.open(out / "shards")


def train_for_minutes(options: argparse.Namespace, reporter: Reporter) -> Checkpoint:
    """Measure the speed in a short run, then train as many steps as fit into the time."""

    def settings(name: str, steps: int, eval_every: int) -> TrainConfig:
        return TrainConfig(
            checkpoint=options.out / "start",
            data=options.out / "shards",
            out=options.out / name,
            steps=steps,
            batch_size=options.batch_size,
            sequence_length=options.sequence_length,
            learning_rate=options.learning_rate,
            # Down to nothing: the run ends here, nobody trains on.
            final_lr_fraction=0.0,
            precision=options.precision,
            eval_every=eval_every,
            eval_tokens=16_384,
            save_every=500,
            overwrite=True,
        )

    probe = train(settings("probe", PROBE_STEPS, 0), reporter)
    lines = (probe.path / "log.jsonl").read_text().splitlines()
    speeds = [json.loads(line).get("tok_s", 0.0) for line in lines][2:]
    tok_s = float(np.median([speed for speed in speeds if speed]))
    shutil.rmtree(probe.path)
    per_step = options.batch_size * options.sequence_length
    steps = max(1, int(SPARE * options.minutes * 60 * tok_s / per_step))
    reporter.say(f"{tok_s:,.0f} tok/s: {steps} steps of {per_step} tokens")
    return train(settings("trained", steps, max(1, steps // 4)), reporter)


def texts(split: Split, tokenizer: Tokenizer, group: int) -> bytes:
    """Return the text of one group's documents, from their tokens; nothing is lost in them."""
    parts = []
    for index in np.flatnonzero(split.document_group == group):
        start, end = split.document_offsets[index : index + 2]
        text = tokenizer.decode(split.tokens[start:end].tolist()).encode()
        assert len(text) == split.document_bytes[index], index
        parts.append(text)
    return b"".join(parts)


def xz(data: bytes) -> int:
    """Return the bytes that `xz -9` needs."""
    return len(lzma.compress(data, preset=9))


def zstd(data: bytes) -> int:
    """Return the bytes that `zstd -19 --long=27` needs."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, window_log=27, source_size=len(data)
    )
    return len(zstandard.ZstdCompressor(compression_params=parameters).compress(data))


def after_training_text(compress: Callable[[bytes], int], seen: bytes, data: bytes) -> int:
    """Return the bytes that a compressor needs more when the training text comes first."""
    return compress(seen + data) - compress(seen)


def rows(options: argparse.Namespace, shards: Shards, reporter: Reporter) -> list[dict[str, Any]]:
    """Return a row per group of text: the model's bits per byte beside the compressors'."""
    scores = evaluate(
        EvalConfig(
            source=options.out / "trained",
            data=options.out / "shards",
            context=options.sequence_length,
        ),
        reporter,
    )
    tokenizer = Tokenizer.open(options.out / "tokenizer")
    result = []
    for score in scores.groups:
        group = shards.groups.index(score.group)
        data, seen = (texts(split, tokenizer, group) for split in (shards.valid, shards.train))
        reporter.say(f"{score.group}: compressing {len(data):,} bytes")
        sizes = {"xz_9": xz(data), "zstd_19": zstd(data)}
        sizes["xz_9_after_training_text"] = after_training_text(xz, seen, data)
        bits = {name: 8 * size / len(data) for name, size in sizes.items()}
        result.append(
            {
                "text": score.group,
                "bytes": len(data),
                "tokens": score.tokens,
                "bytes_per_token": len(data) / score.tokens,
                "model": score.bits_per_byte,
                **bits,
                "model_over_xz_9": score.bits_per_byte / bits["xz_9"],
            }
        )
    return result


def samples(options: argparse.Namespace) -> list[str]:
    """Return three continuations as they come, seeds 0, 1, 2; no choice among more."""
    checkpoint = Checkpoint.open(options.out / "trained")
    tokenizer = Tokenizer.open(options.out / "tokenizer")
    runtime = open_runtime(checkpoint.path, context=256)
    texts = []
    for seed, prompt in enumerate(options.prompt):
        sampling = Sampling(max_new_tokens=100, temperature=0.8, seed=seed)
        ids = prompt_ids(tokenizer, checkpoint.config, prompt)
        texts.append(prompt + "".join(stream(runtime, tokenizer, ids, sampling)))
    return texts


def markdown(facts: dict[str, Any], table: list[dict[str, Any]], written: list[str]) -> str:
    """Return the results for people."""
    names = list(table[0])
    lines = ["# A model of 5M parameters on real text", "", "Written by `bench/real_text.py`.", ""]
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items()]
    lines += ["", "Held-out text, whole works; bits per byte:", ""]
    lines += ["| " + " | ".join(name.replace("_", " ") for name in names) + " |"]
    lines += ["|" + "---|" * len(names)]
    for row in table:
        cells = [
            f"{value:,}"
            if isinstance(value, int)
            else f"{value:.3f}"
            if isinstance(value, float)
            else value
            for value in row.values()
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Samples at temperature 0.8, seeds 0, 1, 2, unedited:", ""]
    for text in written:
        lines += ["```text", text, "```", ""]
    return "\n".join(lines)


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for every stage")
    parser.add_argument("--write", type=Path, help="results, without suffix")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training")
    parser.add_argument("--vocab-size", type=int, default=16_384)
    parser.add_argument("--sentences", type=int, default=200_000, help="for the tokenizer")
    parser.add_argument("--valid-fraction", type=float, default=0.02)
    parser.add_argument("--hidden-size", type=int, default=192)
    parser.add_argument("--num-hidden-layers", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--prompt", action="append", help="three of them")
    options = parser.parse_args()
    options.prompt = options.prompt or ["It was", "却说", ""]
    reporter = Reporter()
    shards = prepare(options, reporter)
    trained = train_for_minutes(options, reporter)
    metrics, settings = trained.lineage["metrics"], trained.lineage["settings"]
    facts = {
        "model": trained.summary()["shape"],
        "parameters": f"{trained.summary()['parameters']:,}",
        "training": f"{metrics['seconds']:.0f} s, {metrics['steps']:,} steps of"
        f" {options.batch_size} x {options.sequence_length} tokens, {settings['precision']},"
        f" peak learning rate {options.learning_rate:g}",
        "tokens_seen": f"{metrics['tokens']:,} ({metrics['text_bytes']:,} bytes of text, of"
        f" {int(shards.train.document_bytes.sum()):,})",
        "speed": f"{metrics['tokens'] / metrics['seconds']:,.0f} tok/s,"
        f" {metrics['text_bytes'] / metrics['seconds']:,.0f} bytes of text a second",
        "machine": f"{cpu_model()}, {torch.get_num_threads()} threads, torch {torch.__version__},"
        f" Python {platform.python_version()}",
    }
    table, written = rows(options, shards, reporter), samples(options)
    page = markdown(facts, table, written)
    print(page)
    if options.write is not None:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.with_suffix(".md").write_text(page, encoding="utf-8")
        record = {"facts": facts, "rows": table, "samples": written}
        text = json.dumps(record, indent=2, ensure_ascii=False)
        options.write.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
