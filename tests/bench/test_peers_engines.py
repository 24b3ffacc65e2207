"""What adapters make of others' output, the timed loop, and how a failed engine becomes a line."""

import sys
from pathlib import Path

import numpy as np
import pytest
from peers.agreement import SUSPICIOUS, mean_gap
from peers.call import answer_of, call
from peers.engines.llama_cpp import from_output
from peers.work import Ids, Work, greedy

from edgetiny.checkpoint import Checkpoint
from edgetiny.runtimes import open_runtime


def test_llama_cpp_prints_its_times_in_one_row() -> None:
    printed = 'noise\n{"pp": 2, "tg": 509, "pl": 20, "t_pp": 0.04, "t_tg": 12.1, "t": 12.14}\n\n'
    timed = from_output(printed)
    assert timed.seconds == 12.14
    assert timed.first_token_seconds == 0.04
    assert timed.first_ids is None


def test_a_context_too_small_makes_llama_cpp_print_no_row() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        from_output("\n")


def test_the_loop_makes_every_token_and_starts_anew_after_the_warm_up() -> None:
    steps: list[int] = []

    def start(prompt: Ids) -> Ids:
        steps.append(-1)
        return np.zeros((2, 1), np.int64)

    def step(ids: Ids, position: int) -> Ids:
        steps.append(position)
        return ids + 1

    work = Work(prompt=np.ones((2, 3), np.int64), new_tokens=20, warm_up_tokens=4, threads=1)
    timed = greedy(start, step, work)
    # Three tokens of a prompt stand at 0, 1, 2; the prefill gives the first new token.
    assert steps == [-1, 3, 4, 5, -1, *range(3, 22)]
    assert timed.first_ids == list(range(16))
    assert 0 <= timed.first_token_seconds <= timed.seconds


def test_a_short_generation_shows_all_of_its_ids() -> None:
    work = Work(prompt=np.ones((1, 2), np.int64), new_tokens=3, warm_up_tokens=1, threads=1)
    zero = np.zeros((1, 1), np.int64)
    timed = greedy(lambda prompt: zero, lambda ids, position: ids + 1, work)
    assert timed.first_ids == [0, 1, 2]


def test_an_engine_that_dies_is_a_line_with_its_last_words() -> None:
    noise = "Traceback\n  more\nValueError: no such layer\n\n"
    assert answer_of(b"", 1, noise) == {"error": "ended with code 1: ValueError: no such layer"}
    assert answer_of(b"", -9, "")["error"] == "ended with signal SIGKILL: nothing was printed"
    assert answer_of(b'noise\n{"seconds": 1.0}\n', 0, "warning") == {"seconds": 1.0}


def request(**changes: object) -> dict[str, object]:
    return {
        "action": "run",
        "engine": "reference",
        "folder": ".",
        "options": {},
        "packages": ["numpy"],
        "prompt": [[1, 2]],
        "new_tokens": 4,
        "warm_up_tokens": 2,
        "threads": 1,
    } | changes


@pytest.mark.slow  # the program runs for four seconds
def test_a_process_answers_with_times_memory_and_versions() -> None:
    answer = call(Path(sys.executable), request(), limit_s=120)
    assert answer["tokens"] == 4
    assert answer["seconds"] > 0
    assert answer["peak_rss_bytes"] > 100_000_000  # the matrices of model A
    assert answer["versions"] == {"numpy": np.__version__}


def test_a_process_that_fails_or_hangs_is_a_reason(tmp_path: Path) -> None:
    log = tmp_path / "logs/engine.log"
    answer = call(Path(sys.executable), request(engine="nothing"), limit_s=60, log=log)
    assert "No module named 'peers.engines.nothing'" in answer["error"]
    assert "Traceback" in log.read_text(encoding="utf-8")
    hung = call(Path(sys.executable), request(), limit_s=0.01)
    assert hung == {"error": "did not end within 0 s"}


def test_right_words_are_near_the_reference_and_wrong_ones_are_not(
    tiny_checkpoint: Checkpoint,
) -> None:
    reference = open_runtime(tiny_checkpoint.path, runtime="eager", threads=1)
    prompt = [5, 9]
    logits = reference.prefill(np.array([prompt]), np.array([2]))
    ids = [int(logits[0].argmax())]
    for _ in range(7):
        ids.append(int(reference.greedy_step(np.array([ids[-1:]]))[0, 0]))
    assert mean_gap(reference, prompt, ids) < 1e-3
    wrong = [(token * 31 + 7) % tiny_checkpoint.config.vocab_size for token in ids]
    assert mean_gap(reference, prompt, wrong) > SUSPICIOUS


def test_the_error_of_a_program_that_an_engine_calls_is_the_reason() -> None:
    noise = "ImportError: no such model\nTraceback\n  more\nsubprocess.CalledProcessError: exit 1\n"
    assert answer_of(b"", 1, noise)["error"] == "ended with code 1: ImportError: no such model"
