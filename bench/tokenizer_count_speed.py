"""Compare the speed of `edgetiny tokenizer count` with sentencepiece's own, and its memory.

    python bench/tokenizer_count_speed.py --tokenizer M.model --text en.jsonl.xz --text zh.jsonl.xz

A is sentencepiece alone: every document is in memory as a string, each process encodes its share
and throws the ids away, and only encoding is timed. B is edgetiny's counting, all of it:
decompressing and parsing the files, starting the processes, encoding, adding up. A and B take
turns, with one process and with two; printed are medians and their ratio, by the clock and by the
CPU time of all processes, which other work on the machine disturbs less. Then the command itself
runs once in a process of its own, and the resident memory of it and its children is sampled.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import sentencepiece

from edgetiny.console import QUIET
from edgetiny.text import read_documents
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.count import count_tokens

_SAMPLE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds by the clock, and CPU seconds of all processes together."""

    clock: float
    cpu: float


def plain(model: Path, texts: list[str], processes: int) -> Took:
    """Let sentencepiece encode the texts, shared among processes; loading it is not counted."""
    context = get_context("fork")
    barrier, cpu = context.Barrier(processes + 1), context.Array("d", processes)
    shares = [texts[number::processes] for number in range(processes)]
    workers = [
        context.Process(target=encode, args=(model, share, barrier, cpu, number))
        for number, share in enumerate(shares)
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    started = time.perf_counter()
    for worker in workers:
        worker.join()
    return Took(time.perf_counter() - started, sum(cpu[:]))


def encode(model: Path, texts: list[str], barrier: Any, cpu: Any, number: int) -> None:
    """Encode texts once every process has loaded the model."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    barrier.wait()
    started = time.process_time()
    for text in texts:
        processor.encode(text)
    cpu[number] = time.process_time() - started


def count(model: Path, files: list[Path], processes: int) -> Took:
    """Let edgetiny count from the files on; the start of its processes is counted."""
    tokenizer = Tokenizer.open(model)
    before = os.times()
    count_tokens(tokenizer, files, processes=processes, reporter=QUIET)
    after = os.times()
    cpu = sum(after[:4]) - sum(before[:4])
    return Took(after.elapsed - before.elapsed, cpu)


def check_equal(model: Path, files: list[Path], texts: list[str]) -> int:
    """Compare the counts with those of plain encoding; return the number of tokens."""
    tokenizer = Tokenizer.open(model)
    counts = count_tokens(tokenizer, files, processes=1, reporter=QUIET).by_id
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    plain = np.zeros(len(counts), dtype=np.int64)
    for text in texts:
        plain += np.bincount(processor.encode(text), minlength=len(plain))
    # U+2581 in a text is spelled in bytes here, and taken for a space there.
    n_marked = sum(len(processor.encode(text)) for text in texts if "\u2581" in text)
    assert np.abs(counts - plain).sum() <= n_marked, "the counts differ"
    return int(counts.sum())


def peak_bytes(model: Path, files: list[Path], processes: int) -> tuple[int, float]:
    """Return the most memory that the command and its children hold at once, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        words = [word for file in files for word in ("--text", str(file))]
        command = [sys.executable, "-m", "edgetiny", "tokenizer", "count", str(model), *words]
        command += ["--processes", str(processes), "--out", f"{folder}/counts.json", "--quiet"]
        started = time.perf_counter()
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        watched, peak = psutil.Process(running.pid), 0
        while running.poll() is None:
            peak = max(peak, resident(watched))
            time.sleep(_SAMPLE_SECONDS)
        assert running.returncode == 0
        return peak, time.perf_counter() - started


def resident(process: psutil.Process) -> int:
    """Return the resident bytes of a process and its children; shared pages count in each."""
    total = 0
    try:
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def row(name: str, megabytes: float, a: list[Took], b: list[Took]) -> str:
    """Return medians of megabytes a second, their ratio, and the ratio of each turn."""
    speeds = [[megabytes / getattr(took, name) for took in side] for side in (a, b)]
    plain_speed, count_speed = map(statistics.median, speeds)
    ratios = [ours / theirs for theirs, ours in zip(*speeds, strict=True)]
    return (
        f"MB a second of {name}: sentencepiece {plain_speed:.2f}, edgetiny {count_speed:.2f},"
        f" ratio {count_speed / plain_speed:.2f} (turns {min(ratios):.2f} to {max(ratios):.2f})"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, action="append", required=True)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    texts = [document.text for document in read_documents(arguments.text)]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(
        f"{len(texts):,} documents, {megabytes:.1f} MB, {os.cpu_count()} cores,"
        f" sentencepiece {sentencepiece.__version__}"
    )
    for model in arguments.tokenizer:
        tokens = check_equal(model, arguments.text, texts)
        print(f"\n{model.stem}: {tokens:,} tokens, the same counts")
        for processes in (1, 2):
            a, b = [], []
            for _ in range(arguments.repeats):
                a.append(plain(model, texts, processes))
                b.append(count(model, arguments.text, processes))
            print(f"  {processes} process(es), {arguments.repeats} turns each:")
            for name in ("clock", "cpu"):
                print(f"    {row(name, megabytes, a, b)}")
            peak, seconds = peak_bytes(model, arguments.text, processes)
            print(
                f"    the command: {seconds:.1f} s, peak memory of all its processes"
                f" {peak / 1e6:,.0f} MB"
            )


if __name__ == "__main__":
    main()
