"""The sizes of a GGUF file, known before it is written and without its package."""

from dataclasses import dataclass

from edgetiny.checkpoint import ModelConfig, parameter_shapes
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.json_tokenizer import JsonTokenizer
from edgetiny.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

# The only block of Q8_0 and Q4_0.
BLOCK = 32

_BITS = {"fp32": 32.0, "fp16": 16.0, "int8": 8.5, "int4": 4.5}
# Fitted to files that gguf 0.19 wrote: the settings, and the description of a tensor.
_HEADER_BYTES, _TENSOR_BYTES = 720, 58
# Length, score and kind beside the bytes of a token; length beside those of a merge.
_TOKEN_BYTES, _LENGTH_BYTES = 16, 8


@dataclass(frozen=True, slots=True)
class Padded:
    """Widths filled up with zeros to whole blocks, which changes no result.

    A norm takes the mean of squares over the width; more zeros make it smaller by n / n', so its
    weight is multiplied by sqrt(n / n') and its epsilon by n / n'.
    """

    config: ModelConfig
    hidden: int
    intermediate: int

    @classmethod
    def of(cls, config: ModelConfig, precision: str) -> "Padded":
        """Return the widths that a precision needs: whole blocks at int8 and int4."""
        block = BLOCK if precision in ("int8", "int4") else 1
        return cls(
            config,
            -(-config.hidden_size // block) * block,
            -(-config.intermediate_size // block) * block,
        )

    @property
    def share(self) -> float:
        """The true width over the padded one."""
        return self.config.hidden_size / self.hidden

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return a tensor's shape with its widths filled up."""
        last = ".".join(name.split(".")[-2:])
        if last.startswith(("gate_proj", "up_proj")):
            return (self.intermediate, self.hidden)
        if last.startswith("down_proj"):
            return (self.hidden, self.intermediate)
        if last.startswith("o_proj"):
            return (self.hidden, *shape[1:])
        if "norm" in last:
            return (self.hidden,)
        return (shape[0], self.hidden) if len(shape) == 2 else shape


def gguf_bytes(config: ModelConfig, precision: str, tokenizer: Tokenizer | None) -> int:
    """Return the bytes of `model.gguf`, within 3%."""
    padded = Padded.of(config, precision)
    total = _HEADER_BYTES + vocabulary_bytes(tokenizer, config.vocab_size)
    for name, true_shape in parameter_shapes(config).items():
        rows, *columns = padded.shape(name, true_shape)
        # Vectors are fp32, and fp16 what does not fill whole blocks.
        bits = _BITS[precision] if columns else 32.0
        if columns and precision in ("int8", "int4") and columns[0] % BLOCK:
            bits = 16.0
        total += _TENSOR_BYTES + int(rows * (columns[0] if columns else 1) * bits / 8)
    return total


def vocabulary_bytes(tokenizer: Tokenizer | None, vocab_size: int) -> int:
    """Return the bytes that the tokens and merges take."""
    if tokenizer is None:
        return 0
    if isinstance(tokenizer, SentencePieceTokenizer):
        pieces = [piece.piece for piece in tokenizer.proto.pieces]
        return sum(len(piece.encode()) for piece in pieces) + _TOKEN_BYTES * vocab_size
    assert isinstance(tokenizer, JsonTokenizer)
    file = tokenizer.file
    total = sum(len(piece.encode()) for piece in file.pieces) + _TOKEN_BYTES * vocab_size
    if file.is_byte_level:
        total += sum(len(f"{a} {b}".encode()) + _LENGTH_BYTES for a, b in file.merges)
    return total
