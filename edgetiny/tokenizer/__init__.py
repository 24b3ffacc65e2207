"""Tokenizers: train one, read one, make one smaller."""

from edgetiny.tokenizer.huggingface import write_tokenizer
from edgetiny.tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer", "write_tokenizer"]
