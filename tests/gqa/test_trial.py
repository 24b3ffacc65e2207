import pytest
import torch

from edgetiny.gqa import calibrate
from edgetiny.gqa.align import plain_mean
from edgetiny.gqa.calibrate import attended, trial_of
from edgetiny.gqa.pool import to_gqa
from edgetiny.model import Stream, open_layer, stream


@pytest.mark.parametrize("n_kv_heads", [4, 8])
@pytest.mark.parametrize(
    ("trial_tokens", "tried"), [(4096, range(6)), (79, [0, 2, 4]), (40, [0, 3]), (1, [0])]
)
@torch.inference_mode()
def test_what_is_tried_is_what_the_merged_layer_does_all_over_the_text(
    make_checkpoint, monkeypatch, n_kv_heads, trial_tokens, tried
):
    monkeypatch.setattr(calibrate, "_TRIAL_TOKENS", trial_tokens)
    monkeypatch.setattr(stream, "_BATCH_TOKENS", 80)  # of the six windows, four and two
    source = make_checkpoint(num_attention_heads=8, num_key_value_heads=n_kv_heads)
    windows = torch.arange(120).view(6, 20) % 97
    size = n_kv_heads // 2
    text = Stream(source.config, source.state_dict(), windows)
    layer = open_layer(source.config, 0, source.state_dict())
    trial = trial_of(text, layer)
    # The whole layer is merged; each query head's change is seen through its own columns.
    merged_shape, merged = to_gqa(source, 2)
    after = open_layer(merged_shape, 0, merged)
    before_read, after_read = (torch.cat(list(attended(text, each))) for each in (layer, after))
    moved = (after_read - before_read).view(*before_read.shape[:2], 8, 8)  # (B, T, H, head_dim)
    columns = layer.self_attn.o_proj.weight.view(32, 8, 8)  # (D, H, head_dim)
    by_head = torch.einsum("bthc,dhc->bthd", moved, columns)[list(tried)].square().sum((0, 1, 3))
    for group in range(2):
        heads = tuple(range(group * size, (group + 1) * size))
        expected = by_head[group * 4 : (group + 1) * 4].sum()
        found = trial.error(heads, plain_mean(size, 8))
        assert found == pytest.approx(float(expected), rel=1e-3)
