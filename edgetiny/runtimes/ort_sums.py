"""Whether onnxruntime's products of bytes have room for their sums on this machine.

x86 without VNNI sums products of unsigned with signed bytes in pairs of 16 bits, which overflow.
"""

import functools

import numpy as np
import onnxruntime

_ROWS, _DEPTH, _COLUMNS = 8, 64, 16
# y = MatMulInteger(a, b): a (8, 64) of unsigned bytes, b (64, 16) of signed ones. A test makes the
# same bytes with the onnx package, which takes half a second to import.
_GRAPH = (
    b'\x08\n:\\\n\x18\n\x01a\n\x01b\x12\x01y"\rMatMulInteger\x12\x01gZ\x13\n\x01a\x12\x0e\n\x0c\x08'
    b"\x02\x12\x08\n\x02\x08\x08\n\x02\x08@Z\x13\n\x01b\x12\x0e\n\x0c\x08\x03\x12\x08\n\x02\x08@\n"
    b"\x02\x08\x10b\x13\n\x01y\x12\x0e\n\x0c\x08\x06\x12\x08\n\x02\x08\x08\n\x02\x08\x10B\x04\n\x00"
    b"\x10\x15"
)
_LARGEST = (255, 127)


@functools.cache
def sums_overflow() -> bool:
    """Return whether such sums overflow here: the onnxruntime at hand is asked, in milliseconds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(_GRAPH, options, providers=["CPUExecutionProvider"])
    unsigned, signed = _LARGEST
    a = np.full((_ROWS, _DEPTH), unsigned, np.uint8)
    b = np.full((_DEPTH, _COLUMNS), signed, np.int8)
    [found] = session.run(None, {"a": a, "b": b})
    return bool((found != _DEPTH * unsigned * signed).any())
