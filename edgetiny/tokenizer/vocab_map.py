"""Reading `vocab_map.json`: which rows of a model a compact tokenizer leaves."""

from typing import Any

from edgetiny.errors import DataError
from edgetiny.files import read_json
from edgetiny.tokenizer.compact import MAP_FILE, SCHEMA_VERSION
from edgetiny.tokenizer.retrain import MEANS_KEY
from edgetiny.tokenizer.rows import RowMap
from edgetiny.tokenizer.source import Source
from edgetiny.tokenizer.tokenizer import Tokenizer


def read_row_map(compact: Tokenizer, source: Source) -> RowMap:
    """Return the rows of the source's tables that a tokenizer made from its own asks for.

    Raises DataError for a tokenizer that is not compact, was made from another one, is damaged, or
    lost an id that the model's settings give a role.
    """
    folder = compact.path.parent
    path = folder / MAP_FILE
    if not path.is_file():
        raise DataError(
            f"{folder} has no {MAP_FILE}, so it is no compact tokenizer; edgetiny tokenizer"
            " compress makes one"
        )
    mapping = read_json(path, schema_version=SCHEMA_VERSION, error=DataError)
    if mapping.get("source_tokenizer_sha256") != source.tokenizer.sha256:
        raise DataError(
            f"{folder} was made from another tokenizer than the one in"
            f" {source.tokenizer.path.parent}; compress that one"
        )
    row_map = _row_map(mapping)
    n_pieces = source.tokenizer.vocab_size
    ids = [index for old in row_map.old_ids for index in old]
    if len(row_map.old_ids) != compact.vocab_size or not all(0 <= each < n_pieces for each in ids):
        raise DataError(f"{path} does not fit the tokenizer beside it; compress again")
    lost = sorted(source.special_ids - row_map.new.keys())
    if lost:
        piece = source.tokenizer.vocabulary().pieces[lost[0]]
        raise DataError(
            f"{folder} lacks {piece!r}, to which the model's settings give a role; make it with"
            " --keep, or of the checkpoint itself"
        )
    return row_map


def _row_map(mapping: dict[str, Any]) -> RowMap:
    if MEANS_KEY in mapping:
        return RowMap([tuple(old) for old in mapping[MEANS_KEY]])
    return RowMap.of_kept(mapping.get("new_to_old", []))
