"""Reads and writes safetensors files with NumPy alone.

Format: 8 bytes little-endian length of the header, the header as JSON ({name: {dtype, shape,
data_offsets}}), the tensors one after the other.
"""

import json
import struct

import numpy as np

DTYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}
NAMES = {np.dtype(text): name for name, text in DTYPES.items()}


def save(path, tensors):
    """Write {name: array}; wide types first, so that every tensor is aligned."""
    header, blocks, offset = {}, [], 0
    order = sorted(tensors, key=lambda name: -np.asarray(tensors[name]).dtype.itemsize)
    for name in order:
        array = np.asarray(tensors[name])
        block = array.tobytes()  # row-major; keeps the shape () of a scalar
        header[name] = {"dtype": NAMES[array.dtype.newbyteorder("<")], "shape": list(array.shape),
                        "data_offsets": [offset, offset + len(block)]}
        blocks.append(block)
        offset += len(block)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for block in blocks:
            file.write(block)


def load(path):
    """{name: array} of a file; __metadata__ is left out."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        payload = file.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        array = np.frombuffer(payload[begin:end], dtype=DTYPES[entry["dtype"]])
        tensors[name] = array.reshape(entry["shape"]).copy()
    return tensors
