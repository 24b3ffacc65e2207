"""Which shapes of one size to train: far apart in depth and in the FFN's expansion."""

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from edgetiny.checkpoint import ModelConfig
from edgetiny.cost import parameters
from edgetiny.design.family import Rules, family, refusal
from edgetiny.errors import ConfigError

EXPANSIONS = (Fraction(3, 2), Fraction(8, 3), Fraction(4))
"""What the FFN's width over the model's is varied over, where --expansion does not fix it."""
_LEAST_WIDTH_PER_LAYER = 4


def shapes_to_train(rules: Rules, count: int, *, fixed_expansion: bool) -> list[ModelConfig]:
    """Return `count` shapes near one size, the deepest first.

    Those are left out whose embedding and head hold more than `rules.max_pehf`, or that are not
    four times as wide as deep: design's own rule says 16, and a sweep can show whether that holds.
    Raises ConfigError if the size has fewer shapes.
    """
    expansions = (rules.expansion,) if fixed_expansion else EXPANSIONS
    for tied in [False, True] if rules.tied is None else [rules.tied]:
        # FFNs are rounded, so that two expansions may give the same shape.
        each = (
            shape
            for expansion in expansions
            for shape in family(replace(rules, expansion=expansion), tied=tied)
            if parameters(shape).embedding_and_head_share <= rules.max_pehf
            and shape.hidden_size >= _LEAST_WIDTH_PER_LAYER * shape.num_hidden_layers
        )
        found = list(dict.fromkeys(each))
        if len(found) >= count:
            return spread(found, count)
    if not found:
        raise ConfigError(refusal(family(rules, tied=tied), rules, tied=tied))
    raise ConfigError(
        f"only {len(found)} shapes come near {rules.n_parameters / 1e6:,.6g}M parameters with"
        f" embedding and head within {100 * rules.max_pehf:g}%; take a --sweep of at most"
        f" {len(found)}, or allow more with --max-pehf"
    )


def spread(shapes: Sequence[ModelConfig], count: int) -> list[ModelConfig]:
    """Return `count` of the shapes, each as far from those before it as can be, deepest first.

    Distance is taken in the logarithms of depth and expansion, each over its whole range: at one
    size the width follows.
    """
    axes = [[math.log(shape.num_hidden_layers) for shape in shapes]]
    axes.append([math.log(shape.intermediate_size / shape.hidden_size) for shape in shapes])
    spans = [max(axis) - min(axis) or 1.0 for axis in axes]

    def distance(first: int, second: int) -> float:
        steps = [
            (axis[first] - axis[second]) / span for axis, span in zip(axes, spans, strict=True)
        ]
        return math.hypot(*steps)

    chosen = [max(range(len(shapes)), key=lambda place: shapes[place].num_hidden_layers)]
    while len(chosen) < count:
        left = [place for place in range(len(shapes)) if place not in chosen]
        chosen.append(max(left, key=lambda place: min(distance(place, one) for one in chosen)))
    picked = [shapes[place] for place in chosen]
    return sorted(picked, key=lambda shape: (-shape.num_hidden_layers, shape.intermediate_size))
