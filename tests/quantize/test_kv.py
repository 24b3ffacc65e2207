import torch

from edgetiny.quantize.kv import KVScales, fit_scales, round_to_bytes


def test_values_within_the_scale_are_off_by_half_a_step_at_most():
    x = torch.linspace(-1, 1, 77)
    assert (round_to_bytes(x, torch.tensor(1 / 127)) - x).abs().max() <= 0.5001 / 127


def test_values_beyond_are_cut_off():
    x = torch.tensor([5.0, -5.0])
    assert torch.equal(round_to_bytes(x, torch.tensor(0.01)), torch.tensor([1.27, -1.27]))


def test_fitted_scales_are_no_worse_than_the_largest_magnitude():
    x = torch.randn(3, 4, 500, 8, generator=torch.Generator().manual_seed(0)) ** 3
    fitted = fit_scales(x, (0, 2))
    assert fitted.shape == (1, 4, 1, 8)
    largest = x.abs().amax(dim=(0, 2), keepdim=True) / 127
    assert (fitted <= largest).all()

    def error(scales):
        return (round_to_bytes(x, scales) - x).square().sum(dim=(0, 2))

    assert (error(fitted) <= error(largest) * 1.0001).all()


def test_one_outlier_does_not_spoil_a_channel():
    x = torch.rand(1, 1, 100_000, 1, generator=torch.Generator().manual_seed(0))
    x[0, 0, 7] = 1.5
    assert fit_scales(x, (0, 2)).item() < 1.4 / 127


def test_a_channel_of_zeros_does_not_coarsen_its_layer():
    x = 0.1 * torch.randn(1, 2, 500, 8, generator=torch.Generator().manual_seed(0))
    x[0, 1, :, 3] = 0
    scales = fit_scales(x, (0, 2))[:, :, 0]
    assert scales[0, 1, 3] == 0
    of_layer, _ = KVScales(scales, scales).per_layer()
    assert 0 < of_layer.item() < 0.01


def test_a_channel_without_a_scale_stays_zero():
    rounded = round_to_bytes(torch.tensor([[0.0, 0.5], [3.0, 0.5]]), torch.tensor([0.0, 0.25]))
    assert rounded.tolist() == [[0.0, 0.5], [0.0, 0.5]]


def test_a_layer_of_zeros_has_a_scale_all_the_same():
    scales = fit_scales(torch.zeros(1, 1, 5, 2), (0, 2))[:, :, 0]
    assert KVScales(scales, scales).per_layer()[0].tolist() == [1]


def test_a_layers_scale_reaches_what_its_channels_reach():
    scales = KVScales(torch.rand(3, 2, 8), torch.rand(3, 2, 8))
    for of_layers, of_channels in zip(scales.per_layer(), (scales.key, scales.value), strict=True):
        assert of_layers.tolist() == [float(of_layer.max()) for of_layer in of_channels]
