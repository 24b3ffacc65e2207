"""How often layers run, for what reads each of them once."""

import pytest
from torch.nn.modules.module import register_module_forward_pre_hook

from edgetiny.model import Layer


@pytest.fixture
def count_layer_runs():
    """Return a function that counts how often decoder layers run while it calls another."""

    def count(call):
        ran = []

        def note(module, args):
            if isinstance(module, Layer):
                ran.append(module)

        handle = register_module_forward_pre_hook(note)
        try:
            call()
        finally:
            handle.remove()
        return len(ran)

    return count
