"""What is loaded: a checkpoint, its copies, their files, and the prompts that they continue."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgetiny.checkpoint import Checkpoint, ModelConfig, write_checkpoint
from edgetiny.checkpoint.model_config import divisors
from edgetiny.config.export import ExportConfig
from edgetiny.console import Reporter
from edgetiny.errors import ConfigError
from edgetiny.export.stage import run
from edgetiny.gqa import to_gqa
from edgetiny.runtimes import open_runtime
from edgetiny.tokenizer import Tokenizer
from interop.compare import until_end
from interop.loaders import Prompt, our_greedy, our_logits

PROMPTS = {
    "town": "The history of the town",
    "speech": '"I do not know," said she,',
    "zh": "\u4ed6\u7684\u7236\u4eb2\u662f",
}
CONTEXT = 256
# So that a table in the place of a head shows: a tenth of the table's own deviation.
HEAD_NOISE = 0.1
EXPORTS: Mapping[str, Mapping[str, Any]] = {
    "own": {"format": ("onnx", "executorch", "gguf")},
    "portable": {"format": ("onnx",), "layout": "portable"},
}
# The export that holds what a loader takes.
FILES = {"own": "own", "portable": "portable", "pte": "own", "gguf": "own"}


def models(source: Checkpoint, out: Path) -> Iterator[tuple[str, Checkpoint]]:
    """Yield the source and three copies; GQA is the mean of neighbours.

    Raises ConfigError for a source that is untied or whose heads cannot be merged.
    """
    groups = divisors(source.config.num_key_value_heads)
    if not source.config.tie_word_embeddings or len(groups) < 2:
        raise ConfigError(
            f"{source.path} is not a tied checkpoint whose key/value heads can be merged"
        )
    shape, merged = to_gqa(source, groups[-2])
    yield "MHA, tied", source
    for name, config, weights in (
        ("GQA, untied", shape, merged),
        ("GQA, tied", shape, merged),
        ("MHA, untied", source.config, source.state_dict()),
    ):
        tensors = dict(weights)
        if name.endswith("untied"):
            tensors["lm_head.weight"] = head_of(tensors["model.embed_tokens.weight"])
            config = replace(config, tie_word_embeddings=False)
        yield name, copied(source, out / name.lower().replace(", ", "-"), config, tensors)


def head_of(table: torch.Tensor) -> torch.Tensor:
    """Return the table (V, D) with noise of a fixed seed, HEAD_NOISE of its deviation."""
    noise = torch.randn(table.shape, generator=torch.Generator().manual_seed(0))
    return table + (HEAD_NOISE * table.float().std() * noise).to(table.dtype)


def copied(
    source: Checkpoint, folder: Path, config: ModelConfig, tensors: dict[str, torch.Tensor]
) -> Checkpoint:
    """Write a copy of the source with another shape and other weights."""
    folder.mkdir()
    write_checkpoint(
        folder, config, tensors, stage="interop", settings={}, parent=source,
        tokenizer=source.path,
    )  # fmt: skip
    return Checkpoint.open(folder)


def exported(checkpoint: Checkpoint, precision: str, out: Path) -> dict[str, Path]:
    """Export a model at one precision and return the folder of each file that loaders take."""
    for name, chosen in EXPORTS.items():
        config = ExportConfig(
            source=checkpoint.path,
            out=out / f"{precision}-{name}",
            precision=precision,  # type: ignore[arg-type]
            context=CONTEXT,
            **chosen,
        )
        run(config, Reporter(quiet=True))
    return {file: out / f"{precision}-{name}" for file, name in FILES.items()}


def prompts_of(checkpoint: Checkpoint) -> list[Prompt]:
    """Return the prompts and how the checkpoint continues them in fp32, up to the end of text."""
    tokenizer, eager = Tokenizer.open(checkpoint.path), open_runtime(checkpoint.path, threads=1)
    start, ends = checkpoint.config.bos_token_id, set(checkpoint.config.eos_token_ids)
    made = []
    for name, text in PROMPTS.items():
        ids = [*([] if start is None else [start]), *tokenizer.encode(text)]
        wanted = until_end(our_greedy(eager, ids), ends)
        made.append(Prompt(name, text, ids, wanted, our_logits(eager, ids, wanted)))
    return made
