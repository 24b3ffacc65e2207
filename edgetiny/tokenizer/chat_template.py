"""The texts that a chat template can emit: rendered conversations, and its string literals."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What users may write next to the template's own words, since words may join with them.
_CONTENTS = ("Hello", "1", "\u4f60\u597d", "\n")
_ROLES = (
    ("user",),
    ("user", "assistant", "user"),
    ("system", "user", "assistant"),
    ("system", "user", "assistant", "tool", "assistant"),
)
# Templates may write the date. These hold every day of a month, month, day of the week, AM and PM,
# every digit, and the years to 2035: what is kept is the same whenever it is worked out.
_DATES = (
    *(datetime(2024, 1, day, hour=day % 24, minute=day) for day in range(1, 32)),
    *(datetime(2023 + month, month, month) for month in range(2, 13)),
)
# A tag of `transformers` that marks what an assistant says, and emits nothing.
_MARKING_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
# A template is a program: it may fail in any of these ways on messages it was not made for.
_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def template_texts(template: str, roles: Mapping[str, str]) -> Iterator[str]:
    """Yield texts that hold whatever a template puts around what is said.

    roles: the special tokens that templates name, such as `eos_token`. Conversations that the
    template refuses are passed over. The literals cover the branches that no conversation takes.
    A template that writes the date is rendered on each of a fixed set of days.
    """
    environment = _environment()
    try:
        source = _MARKING_TAG.sub("", template)
        tree = environment.parse(source)
        compiled = environment.from_string(source)
    except _FAILURES:
        return
    yield from _literals(tree)
    dates = _DATES if "strftime_now" in source else _DATES[:1]
    for date, said, listed, is_prompt in itertools.product(dates, _CONTENTS, _ROLES, (True, False)):
        environment.globals["strftime_now"] = date.strftime
        messages = [{"role": role, "content": said} for role in listed]
        try:
            yield compiled.render(messages=messages, add_generation_prompt=is_prompt, **roles)
        except _FAILURES:
            continue


def _literals(tree: nodes.Template) -> Iterator[str]:
    for constant in tree.find_all(nodes.Const):
        if isinstance(constant.value, str):
            yield constant.value
    for data in tree.find_all(nodes.TemplateData):
        yield data.data


def _environment() -> ImmutableSandboxedEnvironment:
    """Return what `transformers` renders templates with."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
