"""Continue a prompt on any runtime, token by token.

Axes: V vocabulary. A prompt is one sequence: B = 1.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from edgetiny.checkpoint import ModelConfig
from edgetiny.data.build import document_start
from edgetiny.errors import CheckpointError, ConfigError
from edgetiny.generate.text import StopStrings, TextDecoder
from edgetiny.runtimes import Floats, Runtime
from edgetiny.tokenizer import Tokenizer

StopReason = Literal["eos", "stop", "max_new_tokens", "context"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are chosen and when to end; the defaults take the likeliest token."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(kw_only=True, slots=True)
class Reply:
    """What a prompt was continued with, why it ended and how long it took; filled by `stream`."""

    new_ids: list[int] = field(default_factory=list)
    text: str = ""
    stop_reason: StopReason = "max_new_tokens"
    prompt_tokens: int = 0
    ttft_ms: float = 0.0
    step_seconds: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return what the command line prints; decode_tok_s is None without a second token."""
        seconds = sum(self.step_seconds)
        return {
            "text": self.text,
            "stop_reason": self.stop_reason,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": len(self.new_ids),
            "ttft_ms": self.ttft_ms,
            "decode_tok_s": len(self.step_seconds) / seconds if seconds else None,
        }


def prompt_ids(tokenizer: Tokenizer, config: ModelConfig, text: str) -> list[int]:
    """Return the ids to start from, the first and the text's.

    The first: BOS, the tokenizer's before the model's; without either what shards begin documents
    with, EOS. Raises ConfigError for an empty text where there is none of them.
    """
    first = tokenizer.bos_id if tokenizer.bos_id is not None else config.bos_token_id
    if first is None:
        first = document_start(tokenizer)
    ids = [] if first is None else [first]
    ids += tokenizer.encode(text)
    if not ids:
        raise ConfigError("this model has no BOS or EOS token to start from; give a --prompt")
    return ids


def stream(
    runtime: Runtime,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    sampling: Sampling,
    reply: Reply | None = None,
) -> Iterator[str]:
    """Yield the new text in pieces that are final: whole characters, no part of a stop string.

    reply: filled with how it went, complete when the iterator ends.
    Raises ConfigError if the prompt alone exceeds the context.
    """
    reply = Reply() if reply is None else reply
    decoder = TextDecoder(tokenizer, follows_text=bool(tokenizer.decode(prompt)))
    stops = StopStrings(sampling.stop)
    for index in new_tokens(runtime, tokenizer, prompt, sampling, reply):
        text = stops.push(decoder.push(index))
        if text:
            reply.text += text
            yield text
        if stops.found:
            reply.stop_reason = "stop"
            return
    text = stops.push(decoder.finish()) + stops.finish()
    if stops.found:
        reply.stop_reason = "stop"
    if text:
        reply.text += text
        yield text


def new_tokens(
    runtime: Runtime,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    sampling: Sampling,
    reply: Reply,
) -> Iterator[int]:
    """Yield ids until the model ends the document, the limit or the end of the context.

    Only time in the runtime and the sampling is counted, not what the caller does in between.
    """
    rng = np.random.default_rng(sampling.seed)
    ends = end_ids(tokenizer, runtime.config)
    context = runtime.capabilities.max_context
    reply.prompt_tokens = len(prompt)
    started = time.perf_counter()
    logits = runtime.prefill(np.array([prompt], np.int64), np.array([len(prompt)], np.int64))[0]
    while True:
        # Rows beyond the pieces are padding that no text stands behind.
        chosen = sample_next(
            logits[: tokenizer.vocab_size], sampling.temperature, sampling.top_p, rng
        )
        seconds = time.perf_counter() - started
        if reply.new_ids:
            reply.step_seconds.append(seconds)
        else:
            reply.ttft_ms = 1000 * seconds
        if chosen in ends:
            reply.stop_reason = "eos"
            return
        reply.new_ids.append(chosen)
        yield chosen
        if len(reply.new_ids) == sampling.max_new_tokens:
            reply.stop_reason = "max_new_tokens"
            return
        if len(prompt) + len(reply.new_ids) > context:
            reply.stop_reason = "context"
            return
        started = time.perf_counter()
        logits = runtime.step(np.array([[chosen]], np.int64))[0, -1]


def end_ids(tokenizer: Tokenizer, config: ModelConfig) -> set[int]:
    """Return the ids that end a text: EOS, and BOS, since shards put one before each document."""
    known = {tokenizer.bos_id, tokenizer.eos_id, config.bos_token_id, *config.eos_token_ids}
    return {index for index in known if index is not None}


def sample_next(logits: Floats, temperature: float, top_p: float, rng: np.random.Generator) -> int:
    """Return the next id under logits (V,).

    temperature: 0 takes the likeliest (the lowest id of equals) and draws nothing from `rng`.
    top_p: the likeliest ids whose probabilities reach this total take part; at least one does.
    Raises CheckpointError if the logits are not finite.
    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    if not np.isfinite(logits.max()):
        raise CheckpointError("the model's logits are not finite; inspect says which weights are")
    if temperature == 0:
        return int(logits.argmax())
    with np.errstate(over="ignore"):
        weights = np.exp((logits - logits.max()).astype(np.float64) / temperature)  # (V,)
    order = np.argsort(-weights, kind="stable")
    totals = weights[order].cumsum()
    # The ids before which less than top_p was reached.
    n_kept = 1 + int((totals[:-1] < top_p * totals[-1]).sum())
    drawn = rng.random() * totals[n_kept - 1]
    place = int(np.searchsorted(totals[:n_kept], drawn, side="right"))
    # Rounding may bring the product up to the total itself.
    return int(order[min(place, n_kept - 1)])
