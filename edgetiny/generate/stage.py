"""`edgetiny generate`: a prompt's continuation on standard output, as it comes."""

import io
import sys
from typing import TextIO

from edgetiny.artefact import is_artefact
from edgetiny.checkpoint import ModelConfig
from edgetiny.checkpoint.hub import resolve
from edgetiny.config.run import GenerateConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.errors import CheckpointError, ConfigError
from edgetiny.files import read_json
from edgetiny.generate.stream import Reply, Sampling, prompt_ids, stream
from edgetiny.runtimes import open_runtime
from edgetiny.tokenizer import checkpoint_tokenizer


def run(
    config: GenerateConfig, reporter: Reporter = QUIET, stream_to: TextIO | None = None
) -> Reply:
    """Write the continuation of `config.prompt` to `stream_to` as it comes, and return it.

    stream_to: standard output if None.
    Raises CheckpointError if the tokenizer is not the model's, ConfigError for a prompt that
    does not fit the context.
    """
    path = resolve(config.source)
    shape = ModelConfig.from_hf(read_json(path / "config.json", error=CheckpointError))
    tokenizer = checkpoint_tokenizer(path, shape.vocab_size)
    prompt = prompt_ids(tokenizer, shape, _prompt_text(config))
    context = min(len(prompt) + config.max_new_tokens, shape.max_position_embeddings)
    runtime = open_runtime(
        path,
        runtime=config.format or config.runtime,
        # A cache for a model's whole context can be larger than its weights.
        context=None if is_artefact(path) else context,
        threads=config.threads,
        device=config.device,
    )
    sampling = Sampling(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=config.seed,
        stop=config.stop,
    )
    out = sys.stdout if stream_to is None else stream_to
    if isinstance(out, io.TextIOWrapper):
        # A terminal that is not UTF-8 shows a question mark for what it cannot.
        out.reconfigure(errors="replace")
    reply = Reply()
    for text in stream(runtime, tokenizer, prompt, sampling, reply):
        out.write(text)
        out.flush()
    out.write("\n")
    out.flush()
    if reply.stop_reason == "context":
        reporter.say(f"stopped: the context of {runtime.capabilities.max_context} tokens is full")
    return reply


def _prompt_text(config: GenerateConfig) -> str:
    """Return the prompt; `-` stands for standard input, less the end of its last line."""
    try:
        if config.prompt == "-":
            return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
        config.prompt.encode("utf-8")
    except UnicodeError as error:
        raise ConfigError(f"the prompt is not valid UTF-8: {error}") from error
    return config.prompt
