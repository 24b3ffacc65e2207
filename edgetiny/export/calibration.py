"""The weights as a plan stores them, after reading text where a scheme needs it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.config.export import ExportConfig
from edgetiny.console import Reporter
from edgetiny.data import Shards
from edgetiny.data.shards import Tokens
from edgetiny.errors import ConfigError
from edgetiny.evaluate.compatible import check_same_tokenizer
from edgetiny.export.package import open_tokenizer
from edgetiny.export.plan import Plan
from edgetiny.quantize import Scheme, Weights, calibrate, calibration_windows
from edgetiny.quantize.windows import WINDOW_TOKENS
from edgetiny.text import read_documents


def scheme_of(plan: Plan) -> Scheme:
    """Return how a plan stores weights and cache."""
    return Scheme(
        precision=plan.precision,
        kernel=plan.kernel,
        block_size=plan.block_size or 32,
        method=plan.method,
        kv=plan.kv_dtype,
    )


def say_rounding(made: Sequence[Plan], config: ExportConfig, reporter: Reporter) -> None:
    """Say how weights of four bits are rounded, if there are any."""
    method = next((plan.method for plan in made if plan.precision == "int4"), None)
    if method == "gptq":
        source = config.data or config.calibration_text
        reporter.say(f"int4 weights are rounded by GPTQ, on the text of {source}")
    elif method == "hqq":
        reporter.say("int4 weights are rounded by HQQ, which fits their scales without text")
    elif method == "rtn":
        better = "" if config.method else "; --data or --calibration-text would calibrate them"
        reporter.say(f"int4 weights are rounded to the nearest{better}")


def read_calibration(
    config: ExportConfig, made: Sequence[Plan], checkpoint: Checkpoint, *, merges_by_text: bool
) -> Tensor | None:
    """Return the windows (N, T) of ids that all plans are calibrated on; None if no plan is.

    Raises ConfigError if text is given that nothing reads, or is missing where a plan does,
    DataError if it cannot be read or is shorter than a window.
    """
    is_given = config.data is not None or config.calibration_text is not None
    wanting = [plan for plan in made if scheme_of(plan).needs_text]
    if wanting and not is_given:
        raise ConfigError(
            f"{wanting[0].name} is calibrated on text: give --data SHARDS or --calibration-text"
            " FILE"
        )
    if is_given and not wanting and not merges_by_text:
        raise ConfigError(
            "--data and --calibration-text are for --method gptq, --kv int8, --gqa-pool aligned and"
            " --gqa-grouping similarity; nothing else here reads them"
        )
    if not wanting:
        return None
    tokens = calibration_tokens(checkpoint, config.data, config.calibration_text)
    start, context = checkpoint.config.bos_token_id, wanting[0].context
    return calibration_windows(tokens, start, window=min(WINDOW_TOKENS, context))


def make_weights(
    shape: ModelConfig,
    tensors: Mapping[str, Tensor],
    plan: Plan,
    windows: Tensor | None,
    scratch: Path,
    reporter: Reporter,
) -> Weights:
    """Return the weights as a plan stores them.

    windows: what `read_calibration` gave.
    scratch: a folder for rounded matrices, which must live as long as what is returned.
    """
    scheme = scheme_of(plan)
    if not scheme.needs_text:
        return Weights(shape, tensors, scheme)
    assert windows is not None
    with reporter.task("calibrating on text", total=shape.num_hidden_layers) as task:
        return calibrate(shape, tensors, scheme, windows, scratch, task.advance)


def calibration_tokens(
    checkpoint: Checkpoint, data: Path | None, calibration_text: Path | None
) -> Tokens:
    """Return the flat ids of what calibrates: the training part of shards, or a text file.

    Raises DataError for shards of another tokenizer, ConfigError where none can read the text.
    """
    if data is not None:
        shards = Shards.open(data)
        check_same_tokenizer(checkpoint.path, checkpoint.config.vocab_size, shards)
        return shards.train.tokens
    assert calibration_text is not None
    tokenizer = open_tokenizer(checkpoint.path)
    if tokenizer is None:
        raise ConfigError(f"--calibration-text cannot be read: {checkpoint.path} has no tokenizer")
    ids = [
        np.array(tokenizer.encode(document.text), np.uint32)
        for document in read_documents([calibration_text])
    ]
    return np.concatenate(ids)
