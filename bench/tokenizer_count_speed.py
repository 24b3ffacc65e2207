"""Compare the speed of `edgetiny tokenizer count` with sentencepiece's own, and its memory.

    python bench/tokenizer_count_speed.py --tokenizer M.model --text en.jsonl.xz --text zh.jsonl.xz

A is sentencepiece alone: every document is in memory as a string, each process encodes its share
and throws the ids away, and only encoding is timed. B is edgetiny's counting, all of it:
decompressing and parsing the files, starting the processes, encoding, adding up. A and B take
turns, with one process and with two; the last lines give medians and their ratio. Then the command
itself runs once in a process of its own, and the resident memory of it and its children is sampled.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import psutil
import sentencepiece

from edgetiny.console import QUIET
from edgetiny.text import read_documents
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.count import count_tokens

_SAMPLE_SECONDS = 0.02


def plain_seconds(model: Path, texts: list[str], processes: int) -> float:
    """Return how long sentencepiece takes to encode the texts, shared among processes."""
    if processes == 1:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
        started = time.perf_counter()
        for text in texts:
            processor.encode(text)
        return time.perf_counter() - started
    context = get_context("fork")
    barrier = context.Barrier(processes + 1)
    shares = [texts[number::processes] for number in range(processes)]
    workers = [context.Process(target=encode, args=(model, share, barrier)) for share in shares]
    for worker in workers:
        worker.start()
    barrier.wait()
    started = time.perf_counter()
    for worker in workers:
        worker.join()
    return time.perf_counter() - started


def encode(model: Path, texts: list[str], barrier: Barrier) -> None:
    """Encode texts once every process has loaded the model."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    barrier.wait()
    for text in texts:
        processor.encode(text)


def count_seconds(model: Path, files: list[Path], processes: int) -> float:
    """Return how long edgetiny takes from the files to the counts."""
    tokenizer = Tokenizer.open(model)
    started = time.perf_counter()
    count_tokens(tokenizer, files, processes=processes, reporter=QUIET)
    return time.perf_counter() - started


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
            plain, counted = [], []
            for _ in range(arguments.repeats):
                plain.append(megabytes / plain_seconds(model, texts, processes))
                counted.append(megabytes / count_seconds(model, arguments.text, processes))
                print(f"  {processes} process(es): A {plain[-1]:.2f}, B {counted[-1]:.2f} MB/s")
            a, b = statistics.median(plain), statistics.median(counted)
            ratios = [one / other for one, other in zip(counted, plain, strict=True)]
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            print(
                f"  {processes} process(es), medians: sentencepiece {a:.2f} MB/s, edgetiny"
                f" {b:.2f} MB/s, ratio {b / a:.2f} (each turn {spread})"
            )
            peak, seconds = peak_bytes(model, arguments.text, processes)
            print(
                f"  {processes} process(es), the command: {seconds:.1f} s, peak memory of all"
                f" processes {peak / 1e6:,.0f} MB"
            )


if __name__ == "__main__":
    main()
