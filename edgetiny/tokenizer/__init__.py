"""Tokenizers: train one, read one, make one smaller."""

from edgetiny.tokenizer.for_model import checkpoint_tokenizer
from edgetiny.tokenizer.huggingface import write_tokenizer
from edgetiny.tokenizer.locate import has_tokenizer
from edgetiny.tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer", "checkpoint_tokenizer", "has_tokenizer", "write_tokenizer"]
