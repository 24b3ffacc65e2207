"""The standard deviation of each weight matrix, by the schemes that the paper compares and others.

Sources: the paper, section 3.1 (Table 4) and appendix B (Table 11). It describes GPT-2's and
InternLM's schemes otherwise than their authors' code has them; both readings are here.
"""

import math
import re

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.model import InitMethod

_PROJECTION = re.compile(r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)_proj\.weight")
_RESIDUAL_OUTPUTS = ("o", "down")


def deviation(name: str, config: ModelConfig, method: InitMethod, sigma: float) -> float:
    """Return the standard deviation to draw a matrix with.

    constant: sigma everywhere, which the paper recommends.
    gpt2: what adds to the residual stream (o, down) has sigma / sqrt(N), N = 2 * layers residual
        additions (Radford et al. 2019, section 2.3).
    gpt2-paper: the same scale on every projection, as section 3.1 puts it.
    internlm: the same scale on o and gate, as section 3.1 puts it.
    internlm-code: sigma / sqrt(2 * (layer + 1)) on o and down, as InternLM's training code has it
        since its w2 is the down projection; earlier releases named an input projection so, which
        may be what the paper calls the gate.
    depth_adaptive: q and k fall from sqrt(2) * sigma in the first layer to sigma in the last, v and
        o rise from sigma / sqrt(2) to sigma, the rest is constant (appendix B). The course between
        is not stated; here it is linear. A model of one layer is constant.
    neox: sqrt(2 / (5 * width)), and 2 / (layers * sqrt(width)) on o and down, whatever sigma is
        (GPT-NeoX-20B: "small init" after Nguyen and Salazar 2019, output layers after Wang).

    Embedding and head have sigma, or neox's first figure.
    """
    width, n_layers = config.hidden_size, config.num_hidden_layers
    match = _PROJECTION.fullmatch(name)
    layer, kind = (int(match[1]), match[2]) if match else (0, "")
    if method == "neox":
        is_output = kind in _RESIDUAL_OUTPUTS
        return 2 / (n_layers * math.sqrt(width)) if is_output else math.sqrt(2 / (5 * width))
    return sigma * _factor(kind, layer, n_layers, method)


def _factor(kind: str, layer: int, n_layers: int, method: InitMethod) -> float:
    by_residuals = 1 / math.sqrt(2 * n_layers)
    if method == "gpt2" and kind in _RESIDUAL_OUTPUTS:
        return by_residuals
    if method == "gpt2-paper" and kind:
        return by_residuals
    if method == "internlm" and kind in ("o", "gate"):
        return by_residuals
    if method == "internlm-code" and kind in _RESIDUAL_OUTPUTS:
        return 1 / math.sqrt(2 * (layer + 1))
    if method == "depth_adaptive" and kind in ("q", "k", "v", "o"):
        depth = layer / (n_layers - 1) if n_layers > 1 else 1.0
        start = math.sqrt(2) if kind in ("q", "k") else math.sqrt(0.5)
        return start + (1 - start) * depth
    return 1.0
