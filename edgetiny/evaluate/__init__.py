"""How well a model predicts text, in bits per byte."""

from edgetiny.evaluate.bits import GroupScore, Scores, bits_per_byte
from edgetiny.evaluate.documents import ScoredDocument, documents_of_split, documents_of_texts

__all__ = [
    "GroupScore",
    "ScoredDocument",
    "Scores",
    "bits_per_byte",
    "documents_of_split",
    "documents_of_texts",
]
