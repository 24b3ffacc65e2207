"""How long windows of text may be: no longer than what a model has seen in a row."""

from edgetiny.checkpoint import Checkpoint


def trained_length(source: Checkpoint) -> int:
    """Return the most tokens that the source has seen in a row; its context if it does not say.

    Beyond that its loss rises, for want of training alone. The longest of all trainings that led
    to it: a shorter one, before or after, takes no position away. What another tool trained, the
    source itself or an ancestor, is taken to know its whole context.
    """
    lineage, longest = source.lineage, source.config.max_position_embeddings
    stages = [lineage, *lineage.get("ancestors", [])]
    if any("stage" not in each for each in stages):
        return longest
    lengths = [each["settings"]["sequence_length"] for each in stages if each["stage"] == "train"]
    return min(longest, max(lengths, default=longest))
