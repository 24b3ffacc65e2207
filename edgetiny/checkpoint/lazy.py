"""Tensors by name that are made when asked for, so that a stage holds one at a time."""

import functools
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor


class LazyTensors(Mapping[str, Tensor]):
    """A mapping whose values are computed at each look-up and not kept."""

    def __init__(self, makers: Mapping[str, Callable[[], Tensor]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> Tensor:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __contains__(self, name: object) -> bool:
        # Mapping's own would make the tensor to find out.
        return name in self._makers

    def __or__(self, others: Mapping[str, Tensor]) -> "LazyTensors":
        """Return these tensors with `others` in their place, each made when asked for."""
        made = {name: functools.partial(others.__getitem__, name) for name in others}
        return LazyTensors({**self._makers, **made})
