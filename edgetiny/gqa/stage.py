"""`edgetiny gqa`: a checkpoint whose query heads share fewer key/value heads."""

from typing import Any

import torch

from edgetiny.checkpoint import Checkpoint, write_checkpoint
from edgetiny.config.model import GqaConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.data import Shards
from edgetiny.data.windows import spread_windows
from edgetiny.errors import ConfigError
from edgetiny.evaluate import bits_per_byte, documents_of_split
from edgetiny.evaluate.compatible import check_same_tokenizer
from edgetiny.evaluate.window import trained_length
from edgetiny.files import atomic_folder, refuse_existing
from edgetiny.gqa.convert import Converted, Merge, convert
from edgetiny.gqa.pool import check_groups
from edgetiny.measure import torch_threads
from edgetiny.model import build_model

_CONTEXT = 512
_CALIBRATION_TOKENS = 32_768
_EVAL_TOKENS = 65_536


def run(config: GqaConfig, reporter: Reporter = QUIET) -> Checkpoint:
    """Write the checkpoint with `config.groups` key/value heads and return it, opened.

    With `data` the bits per byte before and after, on its held-out part, are told and recorded.
    Raises ConfigError if the groups do not divide the heads or `config.out` exists, DataError for
    shards of another tokenizer or with too little text.
    """
    refuse_existing(config.out, overwrite=config.overwrite)
    source = Checkpoint.open(config.source)
    check_groups(source, config.groups)
    shards = None
    if config.data is not None:
        shards = Shards.open(config.data)
        check_same_tokenizer(source.path, source.config.vocab_size, shards)
    with torch_threads(config.threads):
        return _write(source, config, shards, reporter)


def _write(
    source: Checkpoint, config: GqaConfig, shards: Shards | None, reporter: Reporter
) -> Checkpoint:
    converted = _converted(source, config, shards, reporter)
    metrics: dict[str, Any] = {"kv_heads_before": source.config.num_key_value_heads}
    if converted.reports:
        metrics["layers"] = [
            {"layer": layer} | report.as_json() for layer, report in enumerate(converted.reports)
        ]
    if shards is not None:
        metrics |= _bits_before_and_after(source, converted, shards, config, reporter)
    with atomic_folder(config.out, overwrite=config.overwrite) as folder:
        write_checkpoint(
            folder,
            converted.shape,
            converted.tensors,
            stage="gqa",
            settings=config.as_json(),
            parent=source,
            tokenizer=source.path,
            metrics=metrics,
        )
    return Checkpoint.open(config.out)


def _converted(
    source: Checkpoint, config: GqaConfig, shards: Shards | None, reporter: Reporter
) -> Converted:
    n_before, groups = source.config.num_key_value_heads, config.groups
    if groups == n_before:
        reporter.say(f"--groups {groups} changes nothing: the model has {n_before} KV heads")
    else:
        reporter.say(
            f"{n_before} key/value heads become {groups}: {config.grouping}, {config.pool}"
        )
    merge = Merge(groups=groups, grouping=config.grouping, pool=config.pool, seed=config.seed)
    if not merge.needs_text or groups == n_before:
        return convert(source, merge)
    assert shards is not None
    windows = spread_windows(
        shards.train.tokens,
        config.calibration_tokens or _CALIBRATION_TOKENS,
        window_length(source, config.context),
    )
    return convert(source, merge, windows, reporter)


def window_length(source: Checkpoint, context: int | None = None) -> int:
    """Return the tokens of a window: `context`, or up to 512 of what the model was trained on.

    Raises ConfigError if they are beyond the model's longest context.
    """
    longest = source.config.max_position_embeddings
    if context is not None:
        if context > longest:
            raise ConfigError(f"--context {context} is beyond the model's {longest} positions")
        return context
    return min(_CONTEXT, trained_length(source))


def _bits_before_and_after(
    source: Checkpoint,
    converted: Converted,
    shards: Shards,
    config: GqaConfig,
    reporter: Reporter,
) -> dict[str, float]:
    """Score both models on held-out text, one after the other; only one is in memory at a time."""
    if not len(shards.valid.tokens) or shards.valid.text_bytes is None:
        reporter.say(f"no bits per byte: {shards.path} holds no text of known size out")
        return {}
    n_tokens = config.eval_tokens or _EVAL_TOKENS
    documents = list(documents_of_split(shards.valid, shards.document_start is not None, n_tokens))
    length = window_length(source, config.context)
    bits = {}
    for name, shape, tensors in (
        ("bits_per_byte_before", source.config, source.state_dict()),
        ("bits_per_byte_after", converted.shape, converted.tensors),
    ):
        model = build_model(shape, tensors, torch.float32)
        bits[name] = bits_per_byte(model, documents, context=length).total.bits_per_byte
        del model
    before, after = bits.values()
    reporter.say(f"held-out bits per byte: {before:.4f} before, {after:.4f} after")
    return bits
