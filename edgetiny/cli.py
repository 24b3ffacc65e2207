"""The command line: flags become a stage's settings, the stage runs, its result is shown.

Every command is made from its settings dataclass, so a setting is described once. Importing this
module loads no torch: a stage's module is imported when its command runs.
"""

import contextlib
import importlib
import inspect
import io
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import typer
from typer.exceptions import Abort, TyperException

from edgetiny import __version__
from edgetiny.config.base import Config, flag_name
from edgetiny.config.stages import STAGES
from edgetiny.console import Reporter, show
from edgetiny.errors import DeviceError, EdgetinyError

_INTERRUPTED = 130
_READER_LEFT = 141
_METAVARS = {Path: "PATH", int: "INT", float: "NUMBER", str: "TEXT"}


@dataclass(frozen=True, slots=True)
class Command:
    """One command: the words that call it, the module of edgetiny that runs it, its help."""

    words: str
    module: str
    help: str

    @property
    def config(self) -> type[Config]:
        return STAGES[self.words.replace(" ", "_")]


GROUPS = {
    "tokenizer": "Train a tokenizer, count with one, shrink one, or try one.",
    "data": "Turn text into token shards.",
}

COMMANDS = (
    Command("demo", "demo.pipeline", "Run the whole chain on real text, with a report."),
    Command("tokenizer train", "tokenizer.train", "Train a SentencePiece BPE tokenizer."),
    Command("tokenizer compress", "tokenizer.compress", "Keep only the pieces that a text uses."),
    Command("tokenizer report", "tokenizer.report", "Show what each size would cost; say which."),
    Command("tokenizer count", "tokenizer.count", "Count the tokens of text, for compress."),
    Command("tokenizer merge-counts", "tokenizer.merge_counts", "Add up counts files."),
    Command("tokenizer encode", "tokenizer.encode", "Show the tokens of a text."),
    Command("tokenizer decode", "tokenizer.decode", "Show the text of token ids."),
    Command("data build", "data.build", "Tokenize text into shards; hold whole works out."),
    Command("design", "sweep.command", "Choose a shape for a size, or for a promise on a device."),
    Command("init", "init", "Make a checkpoint with random weights."),
    Command("inspect", "inspect", "Show shapes, parameters, bytes, lineage and statistics."),
    Command("importance", "importance.stage", "Show what layers and neurons are worth."),
    Command("inherit", "inherit.stage", "Cut a smaller model out of a trained one."),
    Command("train", "train.stage", "Train a checkpoint on token shards."),
    Command("gqa", "gqa", "Merge key/value heads that query heads will share."),
    Command("export", "export.stage", "Lower a checkpoint to a verified artefact."),
    Command("verify", "export.verify", "Compare an artefact with its checkpoint."),
    Command("generate", "generate", "Continue a prompt, as a stream."),
    Command("eval", "evaluate.stage", "Score a checkpoint or an artefact in bits per byte."),
    Command("bench", "bench.stage", "Measure speed beside the bound of the machine."),
    Command("compare", "bench.compare", "Compare two results of bench, with intervals."),
    Command("gate", "bench.gate", "Fail if this checkout is proven slower than another."),
    Command("device", "device", "Measure this machine's bandwidth and arithmetic."),
    Command("doctor", "doctor", "Say what is usable here, and what to install."),
)

_EXTRAS = {
    "onnx": "onnx",
    "onnx_ir": "onnx",
    "onnxruntime": "onnx",
    "executorch": "executorch",
    "torchao": "executorch",
    "gguf": "gguf",
    "transformers": "optimum",
    "optimum": "optimum",
    "onnxruntime_genai": "optimum",
    "lm_eval": "eval",
    "matplotlib": "plot",
    "tensorboard": "plot",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code of the process.

    0 done, 1 a check failed, 2 the user can mend it, 3 inconclusive, 130 interrupted. Errors of the
    kinds 1 and 2 are one line on standard error; anything else is a bug and keeps its traceback.
    """
    try:
        code = _app()(args=arguments, prog_name="edgetiny", standalone_mode=False)
    except EdgetinyError as error:
        return _fail(str(error), error.exit_code)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "edgetiny"
        message = error.format_message().rstrip(".")
        return _fail(f"{message}; see {command} --help", error.exit_code)
    except (Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        return _fail("interrupted", _INTERRUPTED)
    return code or 0


def _fail(message: str, code: int) -> int:
    one_line = " ".join(message.split())
    sys.stderr.write(f"edgetiny: error: {one_line}\n")
    return code


def _app() -> typer.Typer:
    app = _group("Train, compress, export and benchmark tiny language models for edge devices.")
    groups = {name: _group(help) for name, help in GROUPS.items()}
    for command in COMMANDS:
        *group, name = command.words.split()
        parent = groups[group[0]] if group else app
        parent.command(name, help=command.help)(_callback(command))
    for name, group_app in groups.items():
        group_app.callback()(_show_help)
        app.add_typer(group_app, name=name)
    app.callback()(_root)
    return app


def _group(help: str) -> typer.Typer:
    # Plain help: the same bytes in every terminal and every version of rich, for docs/cli.md.
    return typer.Typer(
        help=help,
        invoke_without_command=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )


def _show_help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"edgetiny {__version__}")
        raise typer.Exit
    _show_help(context)


def _callback(command: Command) -> Callable[..., None]:
    """Return a function whose signature holds the command's settings, all None if not given."""

    def callback(
        *, recipe: Path | None = None, json: bool = False, quiet: bool = False, **flags: Any
    ) -> None:
        try:
            _run(command, recipe, flags, as_json=json, quiet=quiet)
        except BrokenPipeError:
            # As in `edgetiny ... | head`: nobody reads on, also not what a last flush would write.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(_READER_LEFT) from None

    hints = typing.get_type_hints(command.config)
    # Required settings first; arguments keep their place among themselves.
    specs = sorted(fields(command.config), key=lambda spec: spec.default is not MISSING)
    parameters = [_parameter(spec, hints[spec.name]) for spec in specs]
    parameters += _common(has_settings=bool(specs))
    callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    callback.__annotations__ = {each.name: each.annotation for each in parameters}
    return callback


def _common(*, has_settings: bool) -> list[inspect.Parameter]:
    recipe = typer.Option(
        "--recipe", help="TOML file with a table per stage; flags win over it", metavar="FILE"
    )
    json = typer.Option("--json", help="print the result as JSON, and nothing else")
    quiet = typer.Option("--quiet", help="show no progress")
    parameters = [_keyword("recipe", Path | None, recipe, None)] if has_settings else []
    return [*parameters, _keyword("json", bool, json, False), _keyword("quiet", bool, quiet, False)]


def _keyword(name: str, hint: Any, declaration: Any, default: Any) -> inspect.Parameter:
    annotation = Annotated[hint, declaration]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _parameter(spec: Field[Any], hint: Any) -> inspect.Parameter:
    """Return one setting as a parameter that typer reads."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        [hint] = [arg for arg in args if arg is not type(None)]
    part = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
    metavar = _METAVARS.get(part)
    if typing.get_origin(part) is Literal:
        # Left to Config, which says the same of a flag as of a recipe.
        choices = typing.get_args(part)
        part, metavar = type(choices[0]), "|".join(map(str, choices))
    if typing.get_origin(hint) is tuple:
        part = list[part]  # type: ignore[valid-type]
    name, help = flag_name(spec), _help(spec)
    declaration: Any
    if spec.metadata["argument"]:
        declaration = typer.Argument(help=help, show_default=False, metavar=name)
    elif part is bool:
        negative = name.replace("--", "--no-", 1)
        declaration = typer.Option(f"{name}/{negative}", help=help, show_default=False)
    else:
        declaration = typer.Option(name, help=help, show_default=False, metavar=metavar)
    return _keyword(spec.name, part | None, declaration, None)


def _help(spec: Field[Any]) -> str:
    notes = []
    if spec.default is MISSING:
        notes.append("required")
    elif spec.default not in (None, (), ""):
        notes.append(f"default: {_shown(spec.default, spec)}")
    minimum, maximum = spec.metadata["minimum"], spec.metadata["maximum"]
    if minimum is not None and maximum is not None:
        notes.append(f"{minimum:g} to {maximum:g}")
    elif minimum is not None:
        notes.append(f"at least {minimum:g}")
    elif maximum is not None:
        notes.append(f"at most {maximum:g}")
    text = str(spec.metadata["help"])
    return f"{text} [{'; '.join(notes)}]" if notes else text


def _shown(default: Any, spec: Field[Any]) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, tuple):
        return f" {flag_name(spec)} ".join(map(str, default))
    return str(default)


def _run(
    command: Command,
    recipe: Path | None,
    flags: Mapping[str, Any],
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    config = command.config.load(recipe, flags)
    reporter = Reporter(quiet=quiet)
    try:
        # What a stage or a library prints goes beside the JSON, never into it.
        beside_json = io.StringIO() if quiet else sys.stderr
        with contextlib.redirect_stdout(beside_json) if as_json else contextlib.nullcontext():
            run = importlib.import_module(f"edgetiny.{command.module}").run
            result = run(config, reporter)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _EXTRAS:
            raise
        raise DeviceError(
            f"edgetiny {command.words} needs {package}, which is not installed;"
            f" pip install 'edgetiny[{_EXTRAS[package]}]'"
        ) from error
    if as_json and hasattr(result, "document"):
        # A result with a file format prints what that file holds.
        show(result.document(), as_json=True)
        _exit_as(result)
        return
    summary = result.summary()
    if command.words == "generate" and not as_json:
        # The text is on standard output already; how fast it came goes beside it.
        del summary["text"]
        with contextlib.redirect_stdout(sys.stderr):
            show(summary, as_json=False)
    else:
        show(summary, as_json=as_json)
    _exit_as(result)


def _exit_as(result: object) -> None:
    """End with a code that a result asks for: a gate shows its table, then says no."""
    if code := getattr(result, "exit_code", 0):
        raise typer.Exit(code)
