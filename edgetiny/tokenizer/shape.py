"""What embedding and head take of a model, at any number of rows (the paper's PEHF, Figure 3)."""

import math
from dataclasses import dataclass

from edgetiny.checkpoint import ModelConfig, parameter_shapes
from edgetiny.tokenizer.source import Source

_TABLES = ("model.embed_tokens.weight", "lm_head.weight")
_PAPER_WIDTH = 1792
# Table 1 of the paper varies the depth with the vocabulary; its depths bring each model as near to
# this as whole layers can.
_PAPER_PARAMETERS = 960_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A model without its vocabulary."""

    hidden_size: int
    tied: bool
    body: int | None
    """Parameters besides embedding and head; None: as many layers as `layer` says make 0.96e9."""
    layer: int
    """Parameters of one layer."""
    name: str
    """Which model this is, in a few words."""

    @classmethod
    def of_model(cls, config: ModelConfig, name: str) -> "Shape":
        """Return the shape of a model that exists."""
        sizes = {key: math.prod(shape) for key, shape in parameter_shapes(config).items()}
        first = sum(size for key, size in sizes.items() if key.startswith("model.layers.0."))
        body = sum(size for key, size in sizes.items() if key not in _TABLES)
        return cls(
            hidden_size=config.hidden_size,
            tied=config.tie_word_embeddings,
            body=body,
            layer=first,
            name=name,
        )

    @classmethod
    def of_design(
        cls,
        hidden_size: int | None = None,
        intermediate_size: int | None = None,
        num_hidden_layers: int | None = None,
        *,
        tied: bool = False,
    ) -> "Shape":
        """Return the shape of a LLaMA-like design: by default the paper's (Table 1).

        intermediate_size: 8/3 of the width, rounded up to a multiple of 256, if None.
        num_hidden_layers: at each vocabulary those that come nearest to 0.96e9 parameters, if None.
        """
        width = hidden_size or _PAPER_WIDTH
        ffn = intermediate_size or math.ceil(width * 8 / 3 / 256) * 256
        layer = 4 * width * width + 3 * width * ffn + 2 * width
        depth = num_hidden_layers
        layers = "layers to make 0.96e9 parameters" if depth is None else f"{depth} layers"
        return cls(
            hidden_size=width,
            tied=tied,
            body=None if depth is None else depth * layer + width,
            layer=layer,
            name=f"a design of width {width}, FFN {ffn}, with {layers}",
        )

    def share(self, n_rows: int, *, tied: bool | None = None) -> float:
        """Return the share of the parameters that embedding and head take, between 0 and 1.

        tied: one table instead of two; as the shape says if None.
        """
        is_tied = self.tied if tied is None else tied
        tables = n_rows * self.hidden_size * (1 if is_tied else 2)
        return tables / (tables + self._body(tables))

    def _body(self, tables: int) -> int:
        if self.body is not None:
            return self.body
        depth = max(1, round((_PAPER_PARAMETERS - tables) / self.layer))
        return depth * self.layer + self.hidden_size


def shape_of(source: Source) -> Shape:
    """Return the shape of the source's checkpoint; the paper's design if there is none."""
    if source.checkpoint is None:
        return Shape.of_design()
    return Shape.of_model(source.checkpoint.config, f"the model {source.checkpoint.path}")
