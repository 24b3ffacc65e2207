"""`edgetiny verify`: every model of an artefact, in its own runtime, against its checkpoint."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from edgetiny.artefact import SCHEMA_VERSION, Artefact, ModelFile
from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.config.export import VerifyConfig
from edgetiny.config.run import RuntimeName
from edgetiny.console import QUIET, Reporter
from edgetiny.cost import parameters
from edgetiny.data import Shards
from edgetiny.errors import ArtefactError, CheckFailed, ConfigError, DataError
from edgetiny.evaluate import GroupScore, documents_of_split
from edgetiny.evaluate.compatible import check_same_tokenizer
from edgetiny.export.merge import source_again
from edgetiny.export.package import open_tokenizer
from edgetiny.export.parity import Parity, compare, failures, limits_of
from edgetiny.export.plan import Plan
from edgetiny.export.probe import Answers, Questions, ask, questions, score
from edgetiny.files import TOKENIZER_FILES, sha256_file
from edgetiny.model import build_model
from edgetiny.runtimes import EagerRuntime, Engine, Runtime, open_runtime

_HELD_OUT_TOKENS = 20_000

# Below this many parameters, handing work from thread to thread costs more than it saves.
_ONE_THREAD = 2_000_000

_GOLDEN = (
    "Hello, world!",
    " two  spaces and a\ttab",
    "The year 2024, 3.14159 and don't",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "caf\u00e9 \U0001f44d",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVerification:
    """What was measured of one model of an artefact; not run: no engine, and nothing measured."""

    model: ModelFile
    engine: Engine | None
    parity: Parity | None

    @property
    def failed(self) -> list[str]:
        """The checks that failed, in words."""
        return [] if self.parity is None else failures(self.parity.checks)

    def facts(self) -> dict[str, Any]:
        """Return which model it is, and what ran it."""
        model = self.model
        return {
            "file": model.name,
            "format": model.format,
            "precision": model.precision,
            "kv_dtype": model.kv_dtype,
            "batch": model.batch,
            "verified": self.parity is not None,
            "engine": None if self.engine is None else asdict(self.engine),
        }

    def figures(self) -> dict[str, Any]:
        """Return the tables of a report: logits, greedy texts, scores, checks."""
        if self.parity is None:
            return {}
        return {
            "logits": self.parity.logits,
            "greedy_text": self.parity.greedy,
            "scores": self.parity.scores,
            "checks": [each.as_json() for each in self.parity.checks],
        }

    def as_json(self) -> dict[str, Any]:
        """Return the model's section of `verification.json`."""
        if self.parity is None:
            return self.facts()
        return self.facts() | {
            "logits": self.parity.logits,
            "probes": self.parity.probes,
            "greedy": self.parity.greedy,
            "scores": self.parity.scores,
            "checks": [each.as_json() for each in self.parity.checks],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was measured of an artefact, and whether it is the checkpoint's model."""

    artefact: Path
    source_sha256: str
    text: str
    golden: list[dict[str, Any]]
    tokenizer_files: int
    models: list[ModelVerification]

    @property
    def passed(self) -> bool:
        """Whether a model was run, and every check of those that were did."""
        was_run = any(each.parity is not None for each in self.models)
        return was_run and not any(each.failed for each in self.models)

    def require(self) -> None:
        """Raise CheckFailed, naming what failed, if anything did."""
        for each in self.models:
            if each.failed:
                raise CheckFailed(
                    f"{self.artefact}: {each.model.name} does not answer as its checkpoint does:"
                    f" {'; '.join(each.failed)}"
                )

    def as_json(self) -> dict[str, Any]:
        """Return what `verification.json` holds."""
        return {
            "schema_version": SCHEMA_VERSION,
            "passed": self.passed,
            "source_sha256": self.source_sha256,
            "text": self.text,
            "tokenizer_files": self.tokenizer_files,
            "golden_tokens": self.golden,
            "models": [each.as_json() for each in self.models],
        }

    def summary(self) -> dict[str, Any]:
        """Return what the command line prints."""
        return {
            "artefact": str(self.artefact),
            "passed": self.passed,
            "tokenizer_files_equal": self.tokenizer_files,
        } | self.figures()

    def figures(self) -> dict[str, Any]:
        """Return one table of all models, and the checks of each."""
        return {"models": [_row(each) for each in self.models]} | {
            f"{name} of {each.model.name}": rows
            for each in self.models
            for name, rows in each.figures().items()
        }


def run(config: VerifyConfig, reporter: Reporter = QUIET) -> Verification:
    """Compare and return what was measured; nothing is written.

    Raises CheckFailed if a model is further from the checkpoint than its precision explains,
    ArtefactError if it is damaged or was made from a model of another shape, ConfigError if it
    holds nothing that can run here.
    """
    artefact = Artefact.open(config.artefact)
    if not any(model.verified for model in artefact.models):
        raise ConfigError(
            f"{config.artefact} holds nothing that can run here, so nothing to verify; verify it on"
            f" {artefact.models[0].target}"
        )
    checkpoint = Checkpoint.open(config.against)
    source = source_again(checkpoint, artefact.manifest, config, reporter)
    shape, tensors = source.shape, source.tensors
    if _without_ids(shape) != _without_ids(artefact.config):
        raise ArtefactError(
            f"{config.artefact} was exported from a model of another shape than {config.against};"
            " give the checkpoint that it was made from"
        )
    if shape.eos_token_ids != artefact.config.eos_token_ids:
        reporter.say(
            f"{config.artefact} ends texts at the ids {artefact.config.eos_token_ids}, and the"
            f" checkpoint at {shape.eos_token_ids}; export it again to have these"
        )
    if checkpoint.sha256 != artefact.manifest["source_sha256"]:
        reporter.say(f"{config.artefact} was exported from another checkpoint of the same shape")
    asked = make_questions(checkpoint, shape, artefact.models, config.text, config.data)
    wanted = ask_checkpoint(checkpoint, shape, tensors, asked, reporter)
    verification = verify(config.artefact, artefact.models, checkpoint, asked, wanted, reporter)
    verification.require()
    return verification


def verify(
    folder: Path,
    models: Sequence[ModelFile],
    checkpoint: Checkpoint,
    asked: Questions,
    wanted: Answers,
    reporter: Reporter,
) -> Verification:
    """Ask each model of an artefact what the checkpoint was asked, and compare.

    Raises CheckFailed if the tokenizer is not the checkpoint's.
    """
    n_tokenizer_files = _check_tokenizer(folder, checkpoint.path)
    golden = golden_tokens(checkpoint.path)
    if golden and golden != golden_tokens(folder):
        raise CheckFailed(f"the tokenizer of {folder} does not split text as the checkpoint's does")
    return Verification(
        artefact=folder,
        source_sha256=checkpoint.sha256,
        text=asked.text,
        golden=golden,
        tokenizer_files=n_tokenizer_files,
        models=[verify_model(folder, model, asked, wanted, reporter) for model in models],
    )


def verify_model(
    folder: Path, model: ModelFile, asked: Questions, wanted: Answers, reporter: Reporter
) -> ModelVerification:
    """Ask one model; it is freed before this returns. What cannot run here is not asked."""
    if not model.verified:
        reporter.say(f"{model.name} cannot run here: it is not verified")
        return ModelVerification(model=model, engine=None, parity=None)
    runtime = open_model(folder, model)
    with reporter.task(f"verifying {model.name}", total=asked.n_asked) as task:
        given = ask(runtime, asked, task)
    return ModelVerification(
        model=model,
        engine=runtime.engine,
        parity=compare(asked, wanted, given, limits_of(model.precision, model.kv_dtype)),
    )


def open_model(folder: Path, model: ModelFile) -> Runtime:
    """Return the runtime that runs one model of an artefact; GGUF is read back into ours."""
    shape = Artefact.open(folder).config
    if model.format == "gguf":
        from edgetiny.export.gguf_read import open_gguf

        return open_gguf(folder, model, _threads(shape))
    return open_runtime(
        folder,
        runtime=cast(RuntimeName, model.format),
        threads=_threads(shape),
        max_batch=model.batch,
    )


def golden_tokens(path: Path) -> list[dict[str, Any]]:
    """Return short texts and their ids, for any program to check its tokenizer by."""
    tokenizer = open_tokenizer(path)
    if tokenizer is None:
        return []
    return [{"text": text, "ids": tokenizer.encode(text)} for text in _GOLDEN]


def _row(each: ModelVerification) -> dict[str, Any]:
    """Return one line of the table: which model, and how close."""
    row = {key: value for key, value in each.facts().items() if key != "engine"}
    if each.parity is None or each.engine is None:
        return row
    logits, scores = each.parity.logits, each.parity.scores
    return row | {
        "engine": f"{each.engine.name} {each.engine.version}",
        "mean_kl_nats": logits["mean_kl_nats"],
        "top1_agreement": logits["top1_agreement"],
        "max_abs_error": logits["max_abs_error"],
        "bits_per_byte": scores[-1]["bits_per_byte"],
        "checkpoint_bits_per_byte": scores[-1]["checkpoint_bits_per_byte"],
    }


def make_questions(
    checkpoint: Checkpoint,
    shape: ModelConfig,
    models: Sequence[ModelFile | Plan],
    text: Path | None,
    data: Path | None = None,
    batches: Sequence[int] = (),
) -> Questions:
    """Return what to ask of the checkpoint and of every model that is made of it.

    data: token shards, whose held-out part is scored. batches: that were asked for, where one file
    serves several.

    Raises ConfigError if there is a text but no tokenizer to read it with; DataError for shards of
    another tokenizer, or that hold nothing out.
    """
    tokenizer = open_tokenizer(checkpoint.path)
    if text is not None and tokenizer is None:
        raise ConfigError(f"--text {text} cannot be scored: {checkpoint.path} has no tokenizer")
    context = min(model.context for model in models)
    classes = sorted({*batches, *(model.batch for model in models)})
    asked = questions(shape, context, tokenizer, [text] if text is not None else [], classes)
    if data is None:
        return asked
    shards = Shards.open(data)
    check_same_tokenizer(checkpoint.path, checkpoint.config.vocab_size, shards)
    if not len(shards.valid.tokens):
        raise DataError(f"{data} holds no text out; build it with --valid-fraction above 0")
    has_start = shards.document_start is not None
    held_out = list(documents_of_split(shards.valid, has_start, _HELD_OUT_TOKENS))
    return replace(
        asked,
        documents=asked.documents + held_out,
        text=f"{asked.text}, held-out part of {data.name}",
    )


def ask_checkpoint(
    checkpoint: Checkpoint,
    shape: ModelConfig,
    tensors: Mapping[str, Tensor],
    asked: Questions,
    reporter: Reporter,
) -> Answers:
    """Return the answers of the checkpoint in fp32; its model is freed before this returns."""
    with (
        _reference(checkpoint, shape, tensors, asked.context) as runtime,
        reporter.task("asking the checkpoint", total=asked.n_asked) as task,
    ):
        return ask(runtime, asked, task)


def score_unmerged(checkpoint: Checkpoint, asked: Questions) -> list[GroupScore]:
    """Return how the checkpoint scores the texts with all of its key/value heads, in fp32."""
    config, tensors = checkpoint.config, checkpoint.state_dict()
    with _reference(checkpoint, config, tensors, asked.context) as runtime:
        return score(runtime, asked)


def _without_ids(shape: ModelConfig) -> ModelConfig:
    return replace(shape, bos_token_id=None, eos_token_ids=(), pad_token_id=None)


@contextlib.contextmanager
def _reference(
    checkpoint: Checkpoint, shape: ModelConfig, tensors: Mapping[str, Tensor], context: int
) -> Iterator[EagerRuntime]:
    n_threads = torch.get_num_threads()
    model = build_model(shape, tensors, dtype=torch.float32)
    try:
        # A cache for all of a model's positions can be larger than its weights.
        yield EagerRuntime(model, checkpoint.path, context=context, threads=_threads(shape))
    finally:
        torch.set_num_threads(n_threads)


def _threads(shape: ModelConfig) -> int:
    """Return the threads to ask with; 0 means one per core."""
    return 1 if parameters(shape).total < _ONE_THREAD else 0


def _check_tokenizer(folder: Path, source: Path) -> int:
    """Return how many tokenizer files there are. Raises CheckFailed if one is not the source's."""
    names = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    for name in names:
        copy = folder / name
        if not copy.is_file() or sha256_file(copy) != sha256_file(source / name):
            raise CheckFailed(f"{copy} is not the {name} of {source}; export the artefact again")
    return len(names)
