"""How many bytes of text a token stands for: what makes speeds of two vocabularies comparable."""

from pathlib import Path

from edgetiny.errors import DataError
from edgetiny.tokenizer import Tokenizer, has_tokenizer

TEXT_NAME = "Python's language reference (pydoc_data.topics), first 65,536 characters"
_CHARACTERS = 65_536


def bytes_per_token(folder: Path) -> float | None:
    """Return UTF-8 bytes per token on English text that every Python carries (`TEXT_NAME`).

    None if the folder has no tokenizer. Raises DataError for one that cannot be read.
    """
    if not has_tokenizer(folder):
        return None
    text = _english()
    if not text:
        return None
    tokens = Tokenizer.open(folder).encode(text)
    if not tokens:
        raise DataError(f"the tokenizer in {folder} makes no tokens of English text")
    return len(text.encode("utf-8")) / len(tokens)


def _english() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions strip it
        return ""
    return "\n".join(topics[name] for name in sorted(topics))[:_CHARACTERS]
