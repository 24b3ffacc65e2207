"""How large the demo's models are and how long they train."""

from dataclasses import dataclass

# Greedy text of a model this small goes round in circles, or is all line ends.
SAMPLE_TEMPERATURE = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The ordinary demo: about five minutes on two cores.

    Training lasts a number of seconds, turned into steps at the speed that this machine shows.
    heads: divisible by 8, so that `edgetiny export --gqa-groups 8` works on the student.
    """

    text_bytes: int = 6_000_000
    big_vocabulary: int = 4096
    small_vocabulary: int = 3072
    depth: int = 6
    kept_depth: int = 5
    width: int = 160
    kept_width: int = 128
    heads: int = 8
    head_dim: int = 16
    groups: int = 4
    batch_size: int = 4
    sequence_length: int = 256
    learning_rate: float = 5e-3
    base_seconds: float = 55.0
    student_seconds: float = 140.0
    uptrain_seconds: float = 60.0
    new_tokens: int = 510
    sample_tokens: int = 60


FAST = Plan(
    text_bytes=1_000_000,
    big_vocabulary=1024,
    small_vocabulary=768,
    depth=3,
    kept_depth=2,
    width=64,
    kept_width=48,
    sequence_length=128,
    base_seconds=3.0,
    student_seconds=3.0,
    uptrain_seconds=1.0,
    new_tokens=62,
    sample_tokens=16,
)
"""A first look, and what CI runs: every stage, trained for seconds."""
