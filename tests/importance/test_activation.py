import torch
import torch.nn.functional as F

from edgetiny.importance.activation import score
from edgetiny.model import load_model, stream


@torch.no_grad()
def test_scores_are_what_flows(make_checkpoint, monkeypatch):
    source = make_checkpoint(num_key_value_heads=2)
    windows = torch.randint(0, 97, (5, 17), generator=torch.Generator().manual_seed(0))
    seen = {}
    model = load_model(source)

    def amount(x):
        return x.abs().mean(1).double().square().sum(0).sqrt()

    for name, module in model.named_modules():
        if name.endswith("norm"):
            module.register_forward_hook(
                lambda module, args, out, name=name: seen.update({name: amount(out)})
            )
        if name.endswith(("o_proj", "down_proj")):
            module.register_forward_pre_hook(
                lambda module, args, name=name: seen.update({name: amount(args[0])})
            )
    model.hidden(windows[:, :-1])
    for batch_tokens in (2048, 32):
        monkeypatch.setattr(stream, "_BATCH_TOKENS", batch_tokens)
        scores = score(source.config, source.state_dict(), windows)
        norms = sum(amount for name, amount in seen.items() if "norm" in name)
        torch.testing.assert_close(scores.hidden, norms)
        for layer in range(2):
            of_layer = f"model.layers.{layer}"
            torch.testing.assert_close(scores.units[layer], seen[f"{of_layer}.mlp.down_proj"])
            heads = seen[f"{of_layer}.self_attn.o_proj"].view(-1, 8).sum(1)
            torch.testing.assert_close(scores.query[layer], heads)
            assert F.relu(scores.kv[layer]).sum() == 0


def test_each_layer_runs_once(make_checkpoint, count_layer_runs):
    source, text = make_checkpoint(), torch.arange(34).view(2, 17)
    assert count_layer_runs(lambda: score(source.config, source.state_dict(), text)) == 2
