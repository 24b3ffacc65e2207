"""What verification asks of a runtime, and what it answers: the same of checkpoint and artefact.

Axes: B sequences, T prompt tokens, V vocabulary.
"""

import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgetiny.checkpoint import ModelConfig
from edgetiny.console import Task
from edgetiny.evaluate import GroupScore, ScoredDocument, bits_per_byte, documents_of_texts
from edgetiny.runtimes import Floats, Ids, Runtime
from edgetiny.tokenizer import Tokenizer

GREEDY_TOKENS = 64
_STEPS = (*[1] * 12, 4)
_LONGEST_PROMPT = 1024
_SHORT = 17
_WINDOW = 256
_SAMPLE_BYTES = 8_000
_TEXT_TOKENS = 20_000


@dataclass(frozen=True, slots=True)
class Probe:
    """Prompts, and the tokens that follow them whatever the model would say.

    tokens: (B, T); lengths: (B,); following: (B, n), appended in runs of `steps` tokens.
    """

    name: str
    tokens: Ids
    lengths: Ids
    following: Ids
    steps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Questions:
    """Probes, prompts to continue greedily, and documents to score (`text` says which)."""

    probes: list[Probe]
    prompts: list[Ids]
    documents: list[ScoredDocument]
    text: str
    context: int

    @property
    def n_asked(self) -> int:
        """Units of progress of one round of answers."""
        return len(self.probes) + len(self.prompts) + len(self.documents)


@dataclass(frozen=True, slots=True)
class Continuation:
    """A greedy continuation: ids (n,), and the logits (n, V) that each was taken from."""

    ids: Ids
    logits: Floats


@dataclass(frozen=True, slots=True)
class Answers:
    """logits: one array (B, 1 + n, V) per probe. scores: one per group of documents."""

    logits: list[Floats]
    continuations: list[Continuation]
    scores: list[GroupScore]


def questions(
    config: ModelConfig,
    context: int,
    tokenizer: Tokenizer | None,
    text: Sequence[Path] = (),
    batches: Sequence[int] = (),
) -> Questions:
    """Return what to ask of a model that holds `context` tokens.

    The prompts are English that every Python carries, or random ids where there is no tokenizer.
    text: held-out files, scored beside it. batches: sequences that will be decoded together.
    """
    start = config.bos_token_id
    if tokenizer is None:
        ids = np.random.default_rng(0).integers(0, config.vocab_size, 2_000)
        n_bytes, has_start, group = len(ids), True, "random ids, for want of a tokenizer"
    else:
        words = _sample_text()
        ids = np.array(([] if start is None else [start]) + tokenizer.encode(words), np.int64)
        n_bytes, has_start, group = len(words.encode()), start is not None, "Python's docstrings"
    documents = [
        ScoredDocument(tokens=ids, has_start=has_start, text_bytes=float(n_bytes), group=group)
    ]
    if tokenizer is not None and text:
        documents += documents_of_texts(text, tokenizer, start, _TEXT_TOKENS)
    return Questions(
        probes=_probes(ids, context, batches),
        prompts=[np.resize(ids, min(n, max(1, context // 2)))[None] for n in (1, 24)],
        documents=documents,
        text=", ".join([group, *(path.name for path in text)]),
        context=context,
    )


def ask(runtime: Runtime, asked: Questions, task: Task) -> Answers:
    """Return a runtime's answers, in the order asked."""
    logits, continuations = [], []
    for probe in asked.probes:
        logits.append(_answer(runtime, probe))
        task.advance(note=probe.name)
    for prompt in asked.prompts:
        n_new = min(GREEDY_TOKENS, asked.context - prompt.shape[1])
        continuations.append(_continue(runtime, prompt, n_new))
        task.advance(note="greedy text")
    scores = score(runtime, asked)
    task.advance(len(asked.documents), note="scored text")
    return Answers(logits, continuations, scores)


def score(runtime: Runtime, asked: Questions) -> list[GroupScore]:
    """Return what a runtime makes of the documents, by group."""
    window = min(_WINDOW, asked.context)
    size = min(4, runtime.capabilities.max_batch or 4)
    return bits_per_byte(runtime, asked.documents, context=window, batch_size=size).groups


def _probes(ids: Ids, context: int, batches: Sequence[int]) -> list[Probe]:
    """Return prompts of several lengths and batches, each followed by decoding."""
    steps = _STEPS if context > sum(_STEPS) else (1,) * (context - 1)
    room = context - sum(steps)
    batch = min(64, room)
    lengths = {
        "one token": [1],
        "short prompt": [min(_SHORT, room)],
        "long prompt": [min(_LONGEST_PROMPT, room)],
        "unequal batch": [batch, 1, max(1, batch // 2), max(1, batch // 3)],
    } | {
        f"batch of {n}": [min(_SHORT, room) - row % min(_SHORT, room) for row in range(n)]
        for n in batches
        if n > 1
    }
    return [_probe(name, ids, rows, steps) for name, rows in lengths.items()]


def _probe(name: str, ids: Ids, lengths: list[int], steps: tuple[int, ...]) -> Probe:
    n_tokens = max(lengths) + sum(steps)
    rows = [np.resize(np.roll(ids, -31 * row), n_tokens) for row in range(len(lengths))]
    tokens = np.stack(rows)
    return Probe(
        name, tokens[:, : max(lengths)], np.array(lengths), tokens[:, max(lengths) :], steps
    )


def _answer(runtime: Runtime, probe: Probe) -> Floats:
    """Return the logits (B, 1 + n, V); in groups of rows where the runtime takes no more."""
    size = runtime.capabilities.max_batch or len(probe.tokens)
    groups = [slice(start, start + size) for start in range(0, len(probe.tokens), size)]
    return np.concatenate([_answer_rows(runtime, probe, rows) for rows in groups])


def _answer_rows(runtime: Runtime, probe: Probe, rows: slice) -> Floats:
    lengths, following = probe.lengths[rows], probe.following[rows]
    tokens = probe.tokens[rows, : lengths.max()]
    logits = [runtime.prefill(tokens, lengths)[:, None]]  # (B, 1, V)
    done = 0
    for asked in probe.steps:
        # As many at a time as the runtime takes.
        for size in _parts(asked, runtime.capabilities.max_step):
            logits.append(runtime.step(following[:, done : done + size]))
            done += size
    return np.concatenate(logits, axis=1)  # (B, 1 + n, V)


def _parts(total: int, largest: int) -> list[int]:
    whole, rest = divmod(total, largest)
    return [largest] * whole + ([rest] if rest else [])


def _continue(runtime: Runtime, prompt: Ids, n_new: int) -> Continuation:
    rows = [runtime.prefill(prompt, np.array([prompt.shape[1]]))[0]]
    ids = [int(rows[0].argmax())]
    while len(ids) < n_new:
        rows.append(runtime.step(np.array([[ids[-1]]]))[0, 0])
        ids.append(int(rows[-1].argmax()))
    return Continuation(np.array(ids), np.stack(rows))


def _sample_text() -> str:
    """Return English that every Python installation carries."""
    things = (getattr(builtins, name) for name in sorted(dir(builtins)))
    texts = dict.fromkeys(str(thing.__doc__) for thing in things if thing.__doc__)
    return "\n\n".join(texts)[:_SAMPLE_BYTES]
