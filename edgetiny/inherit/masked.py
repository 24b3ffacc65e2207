"""A model whose weights are multiplied by gates: what its neurons write is silenced.

Hidden dimensions are gated where they are written (embedding, o, down, a shortcut's expansion),
units at up, key/value heads at v, query heads at o's columns, layers where they write. The norms
see the whole stream, so a settled model is what `cut` makes of it.
"""

from collections.abc import Mapping

from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.importance.axes import layer_of


def masked_parameters(
    parameters: Mapping[str, Tensor], gates: Mapping[str, Tensor], config: ModelConfig
) -> dict[str, Tensor]:
    """Return a model's parameters times their gates, for `torch.func.functional_call`.

    gates: by kind, (rows, size), as `Masks` has them; a kind that is absent is open. A tied head is
    among the result as the table without gates: what it reads is silenced already.
    """
    masked = dict(parameters)
    for name, tensor in parameters.items():
        layer = layer_of(name)
        if name == "model.embed_tokens.weight":
            if config.tie_word_embeddings:
                masked["lm_head.weight"] = tensor
            if "hidden" in gates:
                masked[name] = tensor * gates["hidden"]  # (V, D)
        elif layer is not None and ".norm" not in name and "layernorm" not in name:
            masked[name] = _in_layer(name, tensor, layer, gates, config)
    return masked


def _in_layer(
    name: str, tensor: Tensor, layer: int, gates: Mapping[str, Tensor], config: ModelConfig
) -> Tensor:
    rows = None
    if "o_proj" in name or "down_proj" in name or "expand" in name:
        if "hidden" in gates:
            rows = gates["hidden"][0]  # (D,)
        if "layer" in gates:
            rows = gates["layer"][0, layer] * (1 if rows is None else rows)
    elif "up_proj" in name and "unit" in gates:
        rows = gates["unit"][layer]  # (F,)
    elif "v_proj" in name and "kv" in gates:
        rows = gates["kv"][layer].repeat_interleave(config.head_dim)  # (G * head_dim,)
    if rows is not None:
        tensor = tensor * (rows[:, None] if rows.ndim and tensor.ndim == 2 else rows)
    if name.endswith("o_proj.weight") and "query" in gates:
        groups = config.num_key_value_heads
        of_layer = gates["query"][layer * groups : (layer + 1) * groups]  # (G, M)
        tensor = tensor * of_layer.flatten().repeat_interleave(config.head_dim)  # (D, H * head_dim)
    return tensor
