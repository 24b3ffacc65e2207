import subprocess
import sys

import pytest
import torch

from edgetiny.model import Fresh, Rotary, load_model, open_frame, stream_layers

SHAPES = {
    "tied": {},
    "untied gqa": {"num_key_value_heads": 2, "tie_word_embeddings": False, "bias": "qkvo"},
}


@pytest.fixture
def tokens():
    return torch.randint(0, 97, (3, 20), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def streamed(checkpoint, tokens, dtype):
    """Return logits, and how many layers had their weights while each one ran."""
    config, tensors = checkpoint.config, checkpoint.state_dict()
    frame = open_frame(config, tensors, dtype)
    sequence = Fresh(tokens)
    x = frame.model.embed_tokens(tokens)
    rotary = Rotary(config, sequence.positions, x.dtype)
    seen, alive = [], []
    for index, layer in stream_layers(config, tensors, dtype):
        assert index == len(seen)
        seen.append(layer)
        x = layer(x, rotary, sequence)
        alive.append(sum(each.mlp.up_proj.weight.numel() > 0 for each in seen))
    return frame.lm_head(frame.model.norm(x)), alive


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_streamed_logits_are_those_of_the_whole_model_bit_for_bit(
    make_checkpoint, tokens, shape, dtype, stored
):
    checkpoint = make_checkpoint(dtype=stored, num_hidden_layers=3, **shape)
    logits, alive = streamed(checkpoint, tokens, dtype)
    with torch.inference_mode():
        assert torch.equal(logits, load_model(checkpoint, dtype)(tokens))
    assert alive == [1, 1, 1]


def test_layers_come_in_the_order_that_is_asked_for(make_checkpoint):
    checkpoint = make_checkpoint(num_hidden_layers=3)
    asked = stream_layers(checkpoint.config, checkpoint.state_dict(), indices=[2, 0])
    for index, layer in asked:
        stored = checkpoint.tensor(f"model.layers.{index}.mlp.up_proj.weight")
        assert torch.equal(layer.mlp.up_proj.weight, stored)
        assert not layer.mlp.up_proj.weight.requires_grad


def test_a_layer_left_behind_cannot_be_used(make_checkpoint):
    checkpoint = make_checkpoint()
    layers = stream_layers(checkpoint.config, checkpoint.state_dict())
    _, first = next(layers)
    next(layers)
    with pytest.raises(RuntimeError, match="size mismatch"):
        first.mlp(torch.ones(1, 1, 32))


@pytest.mark.parametrize(("stored", "most_layers"), [(torch.bfloat16, 3), (torch.float32, 1.5)])
def test_anonymous_memory_stays_at_one_layer(make_checkpoint, stored, most_layers):
    checkpoint = make_checkpoint(
        dtype=stored, num_hidden_layers=16, hidden_size=256, intermediate_size=1536, head_dim=64
    )
    layer_bytes = 4 * (4 * 256 * 256 + 3 * 256 * 1536)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(checkpoint.path)],
        capture_output=True,
        text=True,
        check=True,
    )
    streamed_bytes, whole_bytes = (int(each) for each in done.stdout.split())
    assert whole_bytes > 15 * layer_bytes, "the measurement sees a model that is loaded whole"
    assert streamed_bytes < most_layers * layer_bytes


_MEASURED = """
import sys
import torch
from edgetiny.checkpoint import Checkpoint
from edgetiny.measure import anonymous_rss_bytes
from edgetiny.model import Fresh, Rotary, load_model, open_frame, stream_layers

torch.set_num_threads(1)
checkpoint = Checkpoint.open(sys.argv[1])
tokens = torch.zeros((1, 8), dtype=torch.int64)
sequence = Fresh(tokens)
rotary = Rotary(checkpoint.config, sequence.positions, torch.float32)
config, tensors = checkpoint.config, checkpoint.state_dict()

def stream():
    most = 0
    x = open_frame(config, tensors, torch.float32).model.embed_tokens(tokens)
    for _, layer in stream_layers(config, tensors, torch.float32):
        x = layer(x, rotary, sequence)
        most = max(most, anonymous_rss_bytes())
    return most

with torch.inference_mode():
    # The first layer pays for what torch keeps: kernels, threads, caches.
    _, layer = next(stream_layers(config, tensors, torch.float32))
    layer(torch.zeros(1, 8, config.hidden_size), rotary, sequence)
    del layer
    before = anonymous_rss_bytes()
    most = stream()
    model = load_model(checkpoint, torch.float32)
    print(most - before, anonymous_rss_bytes() - before)
"""
