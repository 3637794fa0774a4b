"""Headers of safetensors files: what they say of tensors, and damaged or hostile ones."""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from figureground.core.errors import FiguregroundError
from figureground.models.headers import read_header, read_shapes, read_tensors

GOOD = save({"a.weight": np.zeros((2, 3), np.float16), "b": np.zeros((), np.int64)}, {"format": "pt"})


def pack(header):
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(data).to_bytes(8, "little") + data


def test_names_shapes_and_types_are_read(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    assert read_tensors(path, "x") == {"a.weight": ("F16", (2, 3)), "b": ("I64", ())}
    assert read_shapes(path, "x") == {"a.weight": (2, 3), "b": ()}
    assert read_header(path).file_size == len(GOOD)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GOOD[:-1], f"x has {len(GOOD) - 1} of {len(GOOD)} bytes"),
        (GOOD[:20], r"x is damaged or truncated \(20 bytes\)"),
        (b"", "x is damaged or truncated"),
        (pack([]), "x is damaged"),
        (pack({"a": 1}), "x is damaged"),
        (pack({"a": {"dtype": "F16", "shape": [2], "data_offsets": []}}), "x is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\n", "x is a Git LFS pointer instead of the weights: run `git"),
        (pack({"a": {"dtype": "F16", "shape": [float("inf")], "data_offsets": [0, 4]}}), "x is damaged"),
        (pack(b"[" * 50_000), "x is damaged"),
        ((2**62).to_bytes(8, "little") + b"{}", "x is damaged"),
    ],
)  # fmt: skip
def test_files_that_are_not_whole_are_refused(tmp_path, data, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(FiguregroundError, match=message):
        read_tensors(path, "x")


def test_a_file_that_was_replaced_is_read_again(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    read_header(path)
    path.write_bytes(save({"c": np.zeros(5)}))
    assert list(read_header(path).tensors) == ["c"]
