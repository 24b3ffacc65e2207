"""Shapes of one size, from deep and narrow to shallow and wide, and which of them to take.

The rules are the paper's (sections 2.1 and 2.2, Tables 1, 2, 3 and 12); what it leaves open is said
beside each.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.design import DesignConfig, parse_size
from edgetiny.cost import parameters
from edgetiny.errors import ConfigError

_WIDE = 1024
_NARROW = 256
_DEPTH_AT_1B = 20
_LEAST_WIDTH_PER_LAYER = 16
# How far from the size asked for a row may be: the paper's Table 2 spans 7%.
_TOLERANCE = 0.1
DEFAULT_MAX_PEHF = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What decides every size that is not given."""

    n_parameters: int
    vocab_size: int
    depth: int | None = None
    width: int | None = None
    expansion: Fraction = Fraction(8, 3)
    ffn_multiple: int | None = None
    head_dim: int | None = None
    group_size: int = 1
    tied: bool | None = None
    max_pehf: float = DEFAULT_MAX_PEHF

    @classmethod
    def of_settings(cls, config: DesignConfig) -> "Rules":
        """Return the rules of a forward design."""
        assert config.params is not None
        assert config.vocab is not None
        expansion = Fraction(config.expansion or Fraction(8, 3)).limit_denominator(1000)
        return cls(
            n_parameters=parse_size(config.params),
            vocab_size=config.vocab,
            depth=config.num_hidden_layers,
            width=config.hidden_size,
            expansion=expansion,
            ffn_multiple=config.ffn_multiple,
            head_dim=config.head_dim,
            group_size=config.query_heads_per_kv_head or 1,
            tied=config.tie_word_embeddings,
            max_pehf=DEFAULT_MAX_PEHF if config.max_pehf is None else config.max_pehf,
        )

    @property
    def target_depth(self) -> float:
        """The depth to come near to."""
        return self.depth or target_depth(self.n_parameters)


def target_depth(n_parameters: int) -> float:
    """Return the depth that the paper recommends: about 20 at 1B.

    Its 1.5B model has 22: above 1B the depth grows with the fourth root of the size. Below 1B it
    stays, as published small models are no shallower (MobileLLM has 30 and 32 layers).
    """
    return float(_DEPTH_AT_1B * max(1.0, n_parameters / 1e9) ** 0.25)


def ffn_width(width: int, expansion: Fraction = Fraction(8, 3), multiple: int | None = None) -> int:
    """Return the FFN of a width, rounded up.

    The paper's sizes follow from multiples of 256; below 1024 that would be up to a third too much.
    """
    multiple = multiple or (256 if width >= _WIDE else 64)
    return math.ceil(width * expansion / multiple) * multiple


def default_head_dim(width: int) -> int:
    """Return 128 as the paper has it (appendix C), less where that would leave few heads."""
    if width >= _WIDE:
        return 128
    return 64 if width >= _NARROW else 32


def family(rules: Rules, *, tied: bool) -> list[ModelConfig]:
    """Return the shapes that come near the size asked for, the deepest first.

    A given depth or width is kept; with both the size is what comes out. To a depth alone belong
    the three nearest widths, however far off: `objections` says which are too far.
    Raises ConfigError for a width that no heads fit.
    """
    if rules.width is not None and rules.width % (rules.head_dim or default_head_dim(rules.width)):
        head_dim = rules.head_dim or default_head_dim(rules.width)
        raise ConfigError(
            f"heads of {head_dim} do not divide a width of {rules.width}; give --head-dim, or a"
            f" width of {rules.width // head_dim * head_dim or head_dim}"
        )
    shapes = list(_shapes(rules, tied=tied))
    if rules.depth is not None and rules.width is not None:
        return shapes
    if rules.depth is not None:
        shapes.sort(key=lambda shape: _miss(shape, rules))
        return sorted(shapes[:3], key=lambda shape: shape.hidden_size)
    return [shape for shape in shapes if _miss(shape, rules) <= _TOLERANCE]


def _shapes(rules: Rules, *, tied: bool) -> Iterator[ModelConfig]:
    for width in [rules.width] if rules.width is not None else _widths(rules):
        shallow = _shape(width, rules.depth or 1, rules, tied=tied)
        if shallow is None:
            continue
        one = parameters(shallow).total
        if rules.depth is not None:
            yield shallow
            continue
        layer = parameters(replace(shallow, num_hidden_layers=2)).total - one
        depth = 1 + round((rules.n_parameters - one) / layer)
        if depth >= 1:
            yield replace(shallow, num_hidden_layers=depth)


def _widths(rules: Rules) -> Iterator[int]:
    width = rules.head_dim or default_head_dim(1)
    # One layer alone has more than 4 * width^2 parameters but for grouped key/value heads.
    while 2 * width * width <= rules.n_parameters:
        yield width
        width += rules.head_dim or default_head_dim(width)


def _shape(width: int, depth: int, rules: Rules, *, tied: bool) -> ModelConfig | None:
    head_dim = rules.head_dim or default_head_dim(width)
    n_heads = width // head_dim
    if n_heads * head_dim != width or n_heads % rules.group_size:
        return None
    return ModelConfig(
        vocab_size=rules.vocab_size,
        hidden_size=width,
        intermediate_size=ffn_width(width, rules.expansion, rules.ffn_multiple),
        num_hidden_layers=depth,
        num_attention_heads=n_heads,
        num_key_value_heads=n_heads // rules.group_size,
        head_dim=head_dim,
        tie_word_embeddings=tied,
    )


def _miss(shape: ModelConfig, rules: Rules) -> float:
    return abs(parameters(shape).total / rules.n_parameters - 1)


def _is_near(shape: ModelConfig, rules: Rules) -> bool:
    asked_for_whole = rules.depth is not None and rules.width is not None
    return asked_for_whole or _miss(shape, rules) <= _TOLERANCE


def objections(shape: ModelConfig, rules: Rules) -> list[str]:
    """Return what the rules say against a shape; of one that was asked for whole, PEHF alone."""
    found = []
    if not _is_near(shape, rules):
        found.append(f"{100 * _miss(shape, rules):.0f}% off the size")
    if _is_heavy(shape, rules):
        found.append(f"PEHF > {100 * rules.max_pehf:g}%")
    free = rules.depth is None or rules.width is None
    if free and _is_narrow(shape):
        found.append(f"width < {_LEAST_WIDTH_PER_LAYER} x depth")
    return found


def _is_heavy(shape: ModelConfig, rules: Rules) -> bool:
    return parameters(shape).embedding_and_head_share > rules.max_pehf


def _is_narrow(shape: ModelConfig) -> bool:
    return shape.hidden_size < _LEAST_WIDTH_PER_LAYER * shape.num_hidden_layers


def nearest(shapes: list[ModelConfig], rules: Rules) -> ModelConfig:
    """Return the shape nearest to the depth that the rules want, then to the size."""
    return min(
        shapes,
        key=lambda shape: (
            (
                abs(math.log(shape.num_hidden_layers / rules.target_depth)),
                _miss(shape, rules),
            )
            if rules.depth is None
            else (_miss(shape, rules), 0.0)
        ),
    )


def refusal(shapes: list[ModelConfig], rules: Rules, *, tied: bool) -> str:
    """Return one line: which rule none of the shapes keeps, and what would.

    tied: whether all that could be tied are among them.
    """
    what = f"{rules.n_parameters / 1e6:,.6g}M parameters and {rules.vocab_size:,} rows"
    within = f"within {100 * _TOLERANCE:g}% of {what}"
    if not shapes:
        return f"no design comes {within}; take fewer rows or more parameters"
    wide = [shape for shape in shapes if not _is_narrow(shape)]
    if not wide:
        return (
            f"every design of {what} is narrower than {_LEAST_WIDTH_PER_LAYER} times its depth;"
            " give --num-hidden-layers and --hidden-size"
        )
    near = [shape for shape in wide if _is_near(shape, rules)]
    if not near:
        # Widths come in steps, so that a depth may have none of the size.
        light = [shape for shape in wide if not _is_heavy(shape, rules)]
        off = nearest(light or wide, rules)
        tie = " --tie-word-embeddings" if off.tie_word_embeddings and rules.tied is None else ""
        return (
            f"no design of {off.num_hidden_layers} layers comes {within}: the nearest has"
            f" {parameters(off).total:,}; give another --num-hidden-layers or --params, or"
            f" --hidden-size {off.hidden_size}{tie} to take it"
        )
    best = min(near, key=lambda shape: parameters(shape).embedding_and_head_share)
    share = parameters(best).embedding_and_head_share
    tables = parameters(best).embedding + parameters(best).head
    body = parameters(best).total - tables
    most = int(rules.max_pehf / (1 - rules.max_pehf) * body * rules.vocab_size / tables)
    tie = "" if tied else ", tie them with --tie-word-embeddings"
    return (
        f"no design of {what} keeps embedding and head under {100 * rules.max_pehf:g}%: the least"
        f" is {100 * share:.1f}%, of {best.num_hidden_layers} layers x {best.hidden_size}; take at"
        f" most about {most:,} rows{tie}, or allow more with --max-pehf"
    )


def explained(rules: Rules, shape: ModelConfig) -> list[dict[str, Any]]:
    """Return each rule, what it came to and why, as rows of a table."""
    paper = "the paper"
    rows = [
        ("depth", rules.depth, f"near {rules.target_depth:.3g}: {paper}, Table 2: about 20 at 1B"),
        ("width", rules.width, "what the size leaves"),
        ("ffn", None, f"{rules.expansion} x width, rounded up; {paper}, Table 3, needs no more"),
        ("head_dim", rules.head_dim, f"{paper}, appendix C: of no great consequence; 128 at 1B"),
        ("pehf", None, f"at most {100 * rules.max_pehf:g}%; {paper}, section 2.1, has 20%"),
        ("tied", rules.tied, "as the paper's models are not; only where PEHF or size needs it"),
    ]
    values = {
        "depth": shape.num_hidden_layers,
        "width": shape.hidden_size,
        "ffn": shape.intermediate_size,
        "head_dim": shape.head_dim,
        "pehf": f"{100 * parameters(shape).embedding_and_head_share:.2f}%",
        "tied": "yes" if shape.tie_word_embeddings else "no",
    }
    return [
        {
            "rule": name,
            "value": f"{values[name]}",
            "why": reason if given is None else "as asked",
        }
        for name, given, reason in rows
    ]
