import pytest
import torch
import torch.nn.functional as F

from edgetiny.train import loss as loss_module
from edgetiny.train.loss import chunk_rows, head_cross_entropy


def random_head(n_tokens: int, vocab_size: int, hidden_size: int = 16):
    generator = torch.Generator().manual_seed(n_tokens)
    hidden = torch.randn(n_tokens, hidden_size, generator=generator).requires_grad_()
    weight = torch.randn(vocab_size, hidden_size, generator=generator).requires_grad_()
    targets = torch.randint(0, vocab_size, (n_tokens,), generator=generator)
    return hidden, weight, targets


def gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(3 * loss, inputs)


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_value_and_gradients_equal_plain_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    hidden, weight, targets = random_head(64, 97)
    monkeypatch.setattr(loss_module, "_CHUNK_BYTES", rows * 4 * 97)
    assert chunk_rows(97) == rows
    ours = head_cross_entropy(hidden, weight, targets)
    plain = F.cross_entropy(hidden @ weight.T, targets)
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(
        gradients(ours, hidden, weight), gradients(plain, hidden, weight), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_huge_logits_do_not_overflow() -> None:
    hidden, weight, targets = random_head(8, 33)
    ours = head_cross_entropy(1e4 * hidden, weight, targets)
    plain = F.cross_entropy(1e4 * hidden @ weight.T, targets)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=0)


def test_bf16_products_are_near_the_fp32_ones() -> None:
    hidden, weight, targets = random_head(64, 97)
    exact = head_cross_entropy(hidden, weight, targets)
    rough = head_cross_entropy(hidden, weight, targets, torch.bfloat16)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=1e-2, atol=0)
    for mine, theirs in zip(
        gradients(rough, hidden, weight), gradients(exact, hidden, weight), strict=True
    ):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 0.03 * theirs.norm()


def test_the_whole_logits_are_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    hidden, weight, targets = random_head(256, 997)
    monkeypatch.setattr(loss_module, "_CHUNK_BYTES", 16 * 4 * 997)
    with Watch():
        head_cross_entropy(hidden, weight, targets).backward()
    assert largest == weight.numel() < 256 * 997


def test_a_second_backward_pass_fails() -> None:
    hidden, weight, targets = random_head(8, 33)
    loss = head_cross_entropy(hidden, weight, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(AttributeError):
        loss.backward()
