"""`edgetiny eval`: bits per byte of a checkpoint or an artefact on text it has not seen."""

from collections.abc import Iterable
from pathlib import Path

from edgetiny.artefact import is_artefact, read_manifest
from edgetiny.checkpoint import Checkpoint
from edgetiny.checkpoint.hub import resolve
from edgetiny.config.run import EvalConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.data import Shards
from edgetiny.data.build import document_start
from edgetiny.errors import DataError
from edgetiny.evaluate.bits import Scores, bits_per_byte
from edgetiny.evaluate.compatible import check_same_tokenizer
from edgetiny.evaluate.documents import ScoredDocument, documents_of_split, documents_of_texts
from edgetiny.evaluate.window import trained_length
from edgetiny.runtimes import EagerRuntime, Runtime, open_runtime
from edgetiny.tokenizer import checkpoint_tokenizer

_CONTEXT = 512


def run(config: EvalConfig, reporter: Reporter = QUIET) -> Scores:
    """Return the scores of every group of text.

    Raises DataError if the shards were made with another tokenizer or hold nothing out, and what
    opening the source raises.
    """
    path = resolve(config.source)
    runtime = open_runtime(
        path, runtime=config.runtime, threads=config.threads, device=config.device
    )
    n_tokens, documents = _documents(config, runtime.config.vocab_size)
    context = config.context or _usual_context(path, runtime, reporter)
    # The model itself holds fewer logits at a time than its runtime, and gives the same numbers.
    model = runtime.model if isinstance(runtime, EagerRuntime) else runtime
    with reporter.task("scoring tokens", n_tokens) as task:
        return bits_per_byte(
            model, documents, context=context, batch_size=config.batch_size, task=task
        )


def _usual_context(path: Path, runtime: Runtime, reporter: Reporter) -> int:
    """Return up to 512 tokens of those that the model was trained on, and say how many."""
    if is_artefact(path):
        # Files of before this key do not say.
        trained = int(read_manifest(path).get("trained_length", _CONTEXT))
    else:
        trained = trained_length(Checkpoint.open(path))
    context = min(_CONTEXT, runtime.capabilities.max_context, trained)
    reporter.say(f"scoring windows of {context} tokens; --context takes another length")
    return context


def _documents(config: EvalConfig, vocab_size: int) -> tuple[int | None, Iterable[ScoredDocument]]:
    """Return the tokens to score, where known beforehand, and the documents."""
    path, limit = resolve(config.source), config.tokens or None
    if config.data is None:
        tokenizer = checkpoint_tokenizer(path, vocab_size)
        start = document_start(tokenizer)
        return None, documents_of_texts(config.text, tokenizer, start, limit)
    shards = Shards.open(config.data)
    check_same_tokenizer(path, vocab_size, shards)
    if not len(shards.valid.tokens):
        raise DataError(f"{config.data} holds no text out; build it with --valid-fraction above 0")
    has_start = shards.document_start is not None
    n_tokens = len(shards.valid.tokens) if limit is None else None
    return n_tokens, documents_of_split(shards.valid, has_start, limit)
