"""`edgetiny inherit`: a smaller checkpoint cut out of a larger one."""

from dataclasses import asdict
from typing import Any

import torch

from edgetiny.checkpoint import Checkpoint, write_checkpoint
from edgetiny.config.model import InheritConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.data import Shards
from edgetiny.evaluate.compatible import check_same_tokenizer
from edgetiny.files import atomic_folder, refuse_existing
from edgetiny.inherit.calibration import calibration_windows, mean_loss, norm_factors
from edgetiny.inherit.layers import choose_layers, without_layers
from edgetiny.inherit.neurons import choose, score
from edgetiny.inherit.shape import student_shape
from edgetiny.inherit.surgery import cut
from edgetiny.model import build_model, load_model


def run(config: InheritConfig, reporter: Reporter = QUIET) -> Checkpoint:
    """Write the student cut out of `config.source` and return it, opened.

    The source is held in memory in fp32 while its layers are scored; the cut itself streams.
    Raises ConfigError for a shape that the source cannot give, DataError for shards of another
    tokenizer or without held-out text.
    """
    refuse_existing(config.out, overwrite=config.overwrite)
    source = Checkpoint.open(config.source)
    shape = student_shape(source.config, config)
    shards = Shards.open(config.data)
    check_same_tokenizer(source.path, source.config.vocab_size, shards)
    windows = calibration_windows(shards, config.calibration_tokens, trained_length(source))
    model = load_model(source, torch.float32)
    metrics: dict[str, Any] = {
        "calibration_tokens": windows[:, 1:].numel(),
        "loss_source": mean_loss(model, windows),
    }
    layers, dropped = choose_layers(model, windows, shape.num_hidden_layers, reporter)
    model = without_layers(model, layers)
    kept = choose(score(source, layers), layers, shape)
    is_narrower = shape.hidden_size < source.config.hidden_size
    factors = norm_factors(model, windows, kept.hidden) if is_narrower else {}
    del model
    tensors = cut(source, shape, kept, factors)
    metrics |= {
        "loss_student": mean_loss(build_model(shape, tensors, torch.float32), windows),
        "kept_layers": layers,
        "dropped_layers": [asdict(each) for each in dropped],
    }
    reporter.say(
        f"loss {metrics['loss_source']:.3f} nats per token before,"
        f" {metrics['loss_student']:.3f} after the cut"
    )
    with atomic_folder(config.out, overwrite=config.overwrite) as folder:
        write_checkpoint(
            folder,
            shape,
            tensors,
            stage="inherit",
            settings=config.as_json(),
            parent=source,
            tokenizer=source.path,
            metrics=metrics,
        )
    return Checkpoint.open(config.out)


def trained_length(source: Checkpoint) -> int:
    """Return the most tokens that the source has seen in a row; its context if it does not say.

    Beyond that its loss rises, which is not for want of any layer.
    """
    lineage = source.lineage
    stages = [lineage, *lineage.get("ancestors", [])]
    lengths = [
        each["settings"]["sequence_length"] for each in stages if each.get("stage") == "train"
    ]
    longest = source.config.max_position_embeddings
    return min(longest, max(lengths, default=longest))
