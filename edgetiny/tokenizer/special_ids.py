"""The token ids that a model's settings name, and the same settings in other ids."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from edgetiny.errors import CheckpointError

ROLES = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "sep_token_id",
    "cls_token_id",
    "mask_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
"""Keys of `config.json` and `generation_config.json` that name one id or a list of them."""

_POSITIONS = "forced_decoder_ids"
_SETS = ("suppress_tokens", "begin_suppress_tokens")
_SEQUENCES = ("bad_words_ids", "force_words_ids")
_BIAS = "sequence_bias"
ID_KEYS = (*ROLES, _POSITIONS, *_SETS, *_SEQUENCES, _BIAS)
"""Every key of those files that names ids. Source: transformers 4.57, GenerationConfig."""

Respell = Callable[[Sequence[int]], list[int]]


def role_ids(settings: Mapping[str, Any]) -> set[int]:
    """Return the ids that settings give a role, such as BOS: no vocabulary may lose them."""
    named = (settings.get(key) for key in ROLES)
    forced = (pair[1] for pair in settings.get(_POSITIONS) or ())
    return {index for value in (*named, *forced) for index in _numbers(value)}


def with_new_ids(
    settings: Mapping[str, Any], new: Mapping[int, int], respell: Respell
) -> dict[str, Any]:
    """Return settings with the ids of a smaller vocabulary; keys that name no ids stay as they are.

    new: the new id of each old one that is left. Roles must all be left. Of a set of ids the lost
    ones go. respell: gives the new ids of a sequence of old ones; a sequence that comes out empty
    goes.
    """
    changed: dict[str, Any] = {}
    for key, value in settings.items():
        if value is None:
            changed[key] = None
        elif key in ROLES:
            changed[key] = [new[index] for index in value] if _is_list(value) else new[value]
        elif key == _POSITIONS:
            changed[key] = [[place, new[index]] for place, index in value]
        elif key in _SETS:
            changed[key] = [new[index] for index in value if index in new]
        elif key in _SEQUENCES:
            changed[key] = _respelled(value, respell)
        elif key == _BIAS:
            changed[key] = _biases(value, respell)
        else:
            changed[key] = value
    return changed


def _respelled(value: Sequence[Any], respell: Respell) -> list[Any]:
    if value and not _is_list(value[0]):
        return respell(value)
    parts = [_respelled(part, respell) for part in value]
    return [part for part in parts if part]


def _biases(value: Any, respell: Respell) -> list[Any]:
    if not _is_list(value):
        raise CheckpointError(f"{_BIAS} must be a list of [ids, bias], not {value!r}")
    pairs = [[respell(ids), bias] for ids, bias in value]
    return [pair for pair in pairs if pair[0]]


def _numbers(value: Any) -> Iterator[int]:
    for part in value if _is_list(value) else (value,):
        if isinstance(part, int):
            yield part


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
