"""What stands beside a tokenizer's file: roles, added tokens, chat templates."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetiny.errors import DataError
from edgetiny.files import read_json
from edgetiny.tokenizer.locate import standing_beside

CONFIG_FILE = "tokenizer_config.json"
ROLES_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
TEMPLATE_FILE = "chat_template.jinja"
DECODER_KEY = "added_tokens_decoder"


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is declared beside a model, and matched whole in a text unless special."""

    content: str
    is_special: bool


def read_beside(model_file: Path, name: str) -> dict[str, Any]:
    """Return the JSON object of a companion; empty if there is none. Raises DataError."""
    path = standing_beside(model_file, name)
    return {} if path is None else read_json(path)


def role_tokens(model_file: Path) -> dict[str, str]:
    """Return the token of each role that the companions name, such as `eos_token`."""
    named = {**read_beside(model_file, ROLES_FILE), **read_beside(model_file, CONFIG_FILE)}
    found = {}
    for key, value in named.items():
        content = token_content(value)
        if key.endswith("_token") and content is not None:
            found[key] = content
    return found


def additional_specials(model_file: Path) -> list[str]:
    """Return the special tokens that the companions list without a role."""
    listed = []
    for name in (ROLES_FILE, CONFIG_FILE):
        values = read_beside(model_file, name).get("additional_special_tokens") or []
        listed += [content for content in map(token_content, values) if content is not None]
    return list(dict.fromkeys(listed))


def declared_tokens(model_file: Path) -> dict[int, AddedToken]:
    """Return the tokens that `added_tokens.json` and `tokenizer_config.json` declare, by id.

    Raises DataError if one of them is no such file.
    """
    specials = {*role_tokens(model_file).values(), *additional_specials(model_file)}
    try:
        found = {
            int(index): AddedToken(content, content in specials)
            for content, index in read_beside(model_file, ADDED_FILE).items()
        }
        for index, token in _decoder(model_file).items():
            content = str(token["content"])
            is_special = bool(token.get("special")) or content in specials
            found[int(index)] = AddedToken(content, is_special)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(
            f"{model_file.parent}: {ADDED_FILE} or {DECODER_KEY} of {CONFIG_FILE} does not list"
            " tokens with their ids"
        ) from None
    return dict(sorted(found.items()))


def chat_templates(model_file: Path) -> Iterator[str]:
    """Yield the chat templates beside a model file. Raises DataError for one that is no text."""
    path = standing_beside(model_file, TEMPLATE_FILE)
    if path is not None:
        try:
            yield path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from None
    listed = read_beside(model_file, CONFIG_FILE).get("chat_template")
    for named in listed if isinstance(listed, list) else [listed]:
        template = named.get("template") if isinstance(named, Mapping) else named
        if isinstance(template, str):
            yield template


def token_content(value: Any) -> str | None:
    """Return the text of a token that is written as a string or as an object; else None."""
    content = value.get("content") if isinstance(value, Mapping) else value
    return content if isinstance(content, str) else None


def _decoder(model_file: Path) -> dict[str, Any]:
    return read_beside(model_file, CONFIG_FILE).get(DECODER_KEY) or {}
