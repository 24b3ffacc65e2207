import torch

from edgetiny.checkpoint import LazyTensors


def test_an_overlay_makes_only_what_is_asked_for() -> None:
    made: list[str] = []

    def lazy(names: str, value: float) -> LazyTensors:
        def make(name: str) -> torch.Tensor:
            made.append(f"{name}{value}")
            return torch.tensor(value)

        return LazyTensors({name: lambda name=name: make(name) for name in names})

    overlaid = lazy("abc", 1) | lazy("bd", 2)
    assert list(overlaid) == ["a", "b", "c", "d"]
    assert made == []
    assert [float(overlaid[name]) for name in "abd"] == [1, 2, 2]
    assert made == ["a1", "b2", "d2"]
