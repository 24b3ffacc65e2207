"""`edgetiny design --sweep`: every shape initialised, trained, exported and measured alike."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgetiny import init
from edgetiny.bench import stage as bench
from edgetiny.checkpoint import ModelConfig
from edgetiny.config.design import DesignConfig, parse_size
from edgetiny.config.export import ExportConfig
from edgetiny.config.model import InitConfig
from edgetiny.config.run import BenchConfig, EvalConfig
from edgetiny.config.train import TrainConfig, TrainPrecision
from edgetiny.console import QUIET, Reporter
from edgetiny.cost import parameters
from edgetiny.data import Shards
from edgetiny.design import Design, to_toml
from edgetiny.design.family import Rules
from edgetiny.errors import ConfigError, DataError
from edgetiny.evaluate import stage as evaluate
from edgetiny.export import stage as export
from edgetiny.export.plan import plans
from edgetiny.files import atomic_file, read_json, refuse_existing, write_json
from edgetiny.measure import torch_threads
from edgetiny.sweep.report import render
from edgetiny.sweep.result import SCHEMA_VERSION, SweepResult
from edgetiny.sweep.shapes import shapes_to_train
from edgetiny.train import stage as train
from edgetiny.train.throughput import choose_precision

RESULT = "sweep.json"
PAGE = "sweep.html"
_MAY_DIFFER = ("resume", "overwrite", "out", "data")


def run(config: DesignConfig, reporter: Reporter = QUIET) -> SweepResult:
    """Train `config.sweep` shapes on the same tokens in the same order; return their rows.

    A finished shape is in `sweep.json` at once, and `resume` goes on after it, or within the one
    that was training. Raises ConfigError if the size has too few shapes, or a resumed sweep was
    asked for otherwise; DataError for shards without held-out text or tokenizer.
    """
    sweep = _Sweep(config, reporter)
    return sweep.run()


def shape_name(shape: ModelConfig) -> str:
    """Return depth, width and FFN: what no two shapes of a sweep share."""
    return f"{shape.num_hidden_layers}x{shape.hidden_size}-ffn{shape.intermediate_size}"


class _Sweep:
    """The shapes, the text and the folder of one sweep."""

    def __init__(self, config: DesignConfig, reporter: Reporter) -> None:
        assert config.sweep is not None
        assert config.data is not None
        assert config.out is not None
        self._config, self._reporter = config, reporter
        self._data, self._out = config.data, config.out
        shards = Shards.open(self._data)
        self._tokenizer = _usable_tokenizer(shards, config)
        rules = Rules.of_settings(replace(config, vocab=shards.vocab_size))
        fixed = config.expansion is not None
        self._shapes = [
            replace(shape, max_position_embeddings=max(config.context, config.sequence_length))
            for shape in shapes_to_train(rules, config.sweep, fixed_expansion=fixed)
        ]
        for shape in self._shapes:
            # What export refuses is said before anything is trained.
            plans(self._export(self._data, self._out), shape)
        self._settings = config.as_json() | {
            "data_sha256": shards.sha256,
            "scored_windows": config.sequence_length,
        }

    def run(self) -> SweepResult:
        """Train what is missing; keep the result up to date."""
        page = self._out / PAGE
        rows = self._claim()
        # Chosen once: measured again for each shape, it may come out otherwise.
        auto = self._training(self._out, "auto")
        self._settings.setdefault("train_precision", choose_precision(auto))
        result = SweepResult(settings=self._settings, rows=rows, page=page)
        self._save(result)
        for number, shape in enumerate(self._shapes[len(result.rows) :], len(result.rows) + 1):
            self._reporter.say(f"shape {number} of {len(self._shapes)}: {shape_name(shape)}")
            with torch_threads(0):  # evaluation leaves torch with others
                result.rows.append(self._row(shape))
            self._save(result)
        page.write_text(render(result), encoding="utf-8")
        return result

    def _save(self, result: SweepResult) -> None:
        with atomic_file(self._out / RESULT) as temporary:
            write_json(temporary, result.document())

    def _claim(self) -> list[dict[str, Any]]:
        """Return the rows to keep; make the folder ready for the others."""
        place = self._out / RESULT
        if self._config.resume and place.is_file():
            saved = read_json(place, schema_version=SCHEMA_VERSION, error=ConfigError)
            self._check_same(saved["settings"])
            if "train_precision" in saved["settings"]:
                self._settings["train_precision"] = saved["settings"]["train_precision"]
            rows: list[dict[str, Any]] = saved["rows"]
            return rows
        refuse_existing(self._out, overwrite=self._config.overwrite)
        if self._out.exists():
            shutil.rmtree(self._out)
        self._out.mkdir(parents=True)
        return []

    def _check_same(self, saved: Mapping[str, Any]) -> None:
        for name, value in self._settings.items():
            if name not in _MAY_DIFFER and saved.get(name) != value:
                raise ConfigError(
                    f"the sweep in {self._out} had {name} = {saved.get(name)}, not {value};"
                    " choose another --out"
                )

    def _row(self, shape: ModelConfig) -> dict[str, Any]:
        """Take one shape through the stages and return what it came to."""
        folder = self._out / shape_name(shape)
        folder.mkdir(exist_ok=True)
        training = self._training(folder, self._settings["train_precision"])
        self._initialise(shape, folder)
        trained = train.run(training, self._reporter)
        # Beyond the length that shapes were trained at, their loss says nothing of them.
        scoring = EvalConfig(
            source=trained.path, data=self._data, context=self._config.sequence_length
        )
        scores = evaluate.run(scoring, self._reporter)
        speed = self._speed(trained.path, folder / "artefact")
        return {
            "shape": folder.name,
            "depth": shape.num_hidden_layers,
            "width": shape.hidden_size,
            "ffn": shape.intermediate_size,
            "expansion": shape.intermediate_size / shape.hidden_size,
            "parameters": parameters(shape).total,
            "tokens": training.n_steps * training.batch_size * training.sequence_length,
            "bits_per_byte": scores.total.bits_per_byte,
            "tok_s": speed["tok_per_s_summed"]["median"],
            "doubts": speed["doubts"],
        }

    def _initialise(self, shape: ModelConfig, folder: Path) -> None:
        design = folder / "design.toml"
        design.write_text(
            to_toml(Design(folder.name, "edgetiny design --sweep", shape)), encoding="utf-8"
        )
        init.run(
            InitConfig(
                tokenizer=self._tokenizer,
                design=design,
                out=folder / "init",
                seed=self._config.seed,
                overwrite=True,
            )
        )

    def _training(self, folder: Path, precision: TrainPrecision) -> TrainConfig:
        """Return the same training for every shape; its state is saved and gone on from."""
        config = self._config
        assert config.tokens is not None
        per_step = config.train_batch_size * config.sequence_length
        return TrainConfig(
            checkpoint=folder / "init",
            data=self._data,
            out=folder / "trained",
            steps=max(1, parse_size(config.tokens) // per_step),
            batch_size=config.train_batch_size,
            sequence_length=config.sequence_length,
            learning_rate=config.learning_rate,
            precision=precision,
            seed=config.seed,
            eval_every=0,
            resume=True,
        )

    def _speed(self, trained: Path, out: Path) -> dict[str, Any]:
        """Export as asked, and return the row of a run that fills the context."""
        config = self._config
        made = export.run(self._export(trained, out), self._reporter)
        assert isinstance(made, export.ExportResult)
        asked = BenchConfig(
            source=made.artefact.path, batch=(config.batch,), new_tokens=config.context - 2
        )
        [row] = bench.run(asked, self._reporter).rows
        return row

    def _export(self, trained: Path, out: Path) -> ExportConfig:
        config = self._config
        precision = config.precision[0] if config.precision else "int8"
        calibrates = precision == "int4" or config.kv == "int8"
        return ExportConfig(
            source=trained,
            out=out,
            precision=precision,
            kv=config.kv,
            batch=(config.batch,),
            context=config.context,
            data=self._data if calibrates else None,
            overwrite=True,
        )


def _usable_tokenizer(shards: Shards, config: DesignConfig) -> Path:
    """Return the tokenizer of the shards. Raises if they do not do for a sweep."""
    if config.vocab not in (None, shards.vocab_size):
        raise ConfigError(
            f"--vocab {config.vocab} differs from the {shards.vocab_size} rows of the shards in"
            f" {config.data}; leave it out"
        )
    if shards.tokenizer_path is None or not len(shards.valid.tokens):
        raise DataError(
            f"{config.data} lacks a tokenizer or held-out text; build it with edgetiny data build"
        )
    return shards.tokenizer_path
