"""ONNX files: checked before they are opened, and run with onnxruntime (extra `onnx`).

An ONNX file is a protobuf message that may name other files with its weights, at any path. The file is therefore read
field by field first, without onnxruntime, and refused if such a path leaves its folder.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from figureground.core.errors import FiguregroundError, printable
from figureground.core.extras import require
from figureground.core.files import check_regular, leads_outside
from figureground.core.lfs import POINTER, describe_pointer
from figureground.core.numerics import usable_cores

MAX_BYTES = 2 * 2**30
"""Maximum size of an ONNX file with its data files, bytes. A single protobuf message can't be larger either."""
MAX_MESSAGES = 5_000_000
"""Maximum number of nodes, attributes and tensors. Large networks have some ten thousand."""
MAX_NESTED = 64
"""Maximum depth of graphs in graphs, as in loops and branches."""

# The parts of onnx.proto in which tensors lie: message, then field number to the message that it holds.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
_KEY, _VALUE = 1, 2
_NUMPY = {"float": "float32", "double": "float64"}
_HEADS = {
    POINTER: describe_pointer("file"),
    b"PK\x03\x04": "a zip archive or a PyTorch file. Export the network with torch.onnx.export",
    b"<": "a web page or XML",
}


@dataclass(frozen=True)
class Port:
    """An input or output of a network."""

    name: str
    dtype: str
    """NumPy's name, such as `float32`; for other than tensors, onnxruntime's description."""
    shape: tuple[int | None, ...]
    """Sizes; None for those that may vary."""

    def __str__(self) -> str:
        sizes = " × ".join("?" if size is None else str(size) for size in self.shape)
        return f"{printable(self.name)} ({self.dtype}{f', {sizes}' if sizes else ''})"


class OnnxNetwork:
    """A network that onnxruntime runs.

    Attributes:
        path: The file.
        inputs, outputs: What it takes and gives, in the file's order.
        sha256: Identity of the file and its data files, `sha256:…`; see `fingerprint_onnx`.
    """

    def __init__(self, session: Any, path: Path, what: str):
        self.path, self._what, self._session = path, what, session
        self.inputs = tuple(map(_make_port, session.get_inputs()))
        self.outputs = tuple(map(_make_port, session.get_outputs()))
        self.sha256 = fingerprint_onnx(path)

    def __call__(self, feeds: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> list[np.ndarray]:
        """Run the network.

        Args:
            feeds: Arrays by input name.
            outputs: Names of the wanted outputs; None: all.

        Raises:
            FiguregroundError: The network fails, such as on arrays of other shapes; says what onnxruntime said.
        """
        try:
            results: list[np.ndarray] = self._session.run(outputs, dict(feeds))
        except Exception as error:  # onnxruntime's errors have no common base
            raise FiguregroundError(f"{self._what} fails: {_first_line(error)} It {self.describe()}.") from error
        return results

    def describe(self) -> str:
        """Return the inputs and outputs in words: `takes … and gives …`."""
        takes, gives = (", ".join(map(str, ports)) or "nothing" for ports in (self.inputs, self.outputs))
        return f"takes {takes} and gives {gives}"


def open_onnx(path: Path, what: str, *, device: str = "cpu") -> OnnxNetwork:
    """Check and open an ONNX file.

    Args:
        path: The file.
        what: Kind and name of the model for errors, such as `segmenter 'onnx:u2netp.onnx'`.
        device: `cpu`, or `cuda` or `cuda:N`, which is used if the installed onnxruntime supports it.

    Raises:
        FiguregroundError: onnxruntime isn't installed, the file doesn't pass `check_onnx`, or doesn't open.
    """
    check_onnx(path, what)
    require("onnxruntime", what)
    # onnxruntime would keep a database in the user's cache from its import on; `disable_telemetry_events` is too late.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # its warnings concern the export, not the user
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ONNX")
    providers: list[Any] = ["CPUExecutionProvider"]
    kind, _, number = device.partition(":")
    if kind == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(number or 0)}))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common base
        raise FiguregroundError(f"{what} doesn't open: {_first_line(error)}") from error
    return OnnxNetwork(session, path, what)


def check_onnx(path: Path, what: str) -> list[Path]:
    """Check an ONNX file without onnxruntime: its kind, its size, and where its data lie.

    Args:
        path: The file.
        what: Kind and name of the model for errors.

    Returns:
        The file and its data files.

    Raises:
        FiguregroundError: The file is missing, no ONNX file or too large, or its data are missing or lie elsewhere.
    """
    try:
        size = check_regular(path).st_size
        locations = _find_locations(path)
    except FileNotFoundError:
        raise FiguregroundError(f"{what}: there is no file {printable(path)}.") from None
    except (OSError, ValueError) as error:  # ValueError: FileError too
        raise FiguregroundError(f"{what}: {_first_line(error)}") from error
    files = [path]
    for location in sorted(locations):
        place = path.parent / location
        if not location or "\\" in location or ".." in place.parts or leads_outside(place, path.parent):
            raise FiguregroundError(
                f"{what}: its weights lie outside its folder, in {printable(location)!r}, and aren't opened. Save the "
                "network as one file: onnx.save(onnx.load('it.onnx'), 'whole.onnx')."
            )
        try:
            size += check_regular(place, root=path.parent).st_size
        except (OSError, ValueError) as error:
            raise FiguregroundError(
                f"{what}: its weights are in {printable(location)!r}, which can't be read: {_first_line(error)} "
                "Keep the two files together."
            ) from error
        files.append(place)
    if size > MAX_BYTES:
        raise FiguregroundError(f"{what} has {size:,} bytes; at most {MAX_BYTES:,} are opened.")
    return files


def fingerprint_onnx(path: Path) -> str:
    """Return `sha256:…` over an ONNX file, as `sha256sum` prints it, or over the hashes of it and of its data files.

    Raises:
        FiguregroundError: See `check_onnx`.
    """
    hashes = []
    for file in check_onnx(path, printable(path)):
        with file.open("rb") as stream:
            hashes.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return f"sha256:{hashes[0] if len(hashes) == 1 else hashlib.sha256(''.join(hashes).encode()).hexdigest()}"


def _find_locations(path: Path) -> set[str]:
    """Return the paths of external data that an ONNX file names.

    Raises:
        OSError: The file can't be read.
        ValueError: It is not an ONNX file, has too many parts, or is too large.
    """
    with path.open("rb") as file:
        start = file.read(64)
        if not start:
            raise ValueError("the file is empty.")
        for beginning, kind in _HEADS.items():
            if start.lstrip().startswith(beginning):
                raise ValueError(f"it is {kind}.")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are opened.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
            return _parse_locations(view)


def _parse_locations(data: memoryview) -> set[str]:
    locations: set[str] = set()
    stack: list[tuple[str, int, int, int]] = [("model", 0, len(data), 0)]
    has_graph, visited = False, 0
    while stack:
        message, start, end, depth = stack.pop()
        visited += 1
        if visited > MAX_MESSAGES:
            raise ValueError(f"it has more than {MAX_MESSAGES:,} parts.")
        if depth > MAX_NESTED:
            raise ValueError(f"its graphs are nested more than {MAX_NESTED} deep.")
        texts: dict[int, bytes] = {}
        for number, first, last in _iterate_fields(data, start, end):
            kind = _FIELDS[message].get(number)
            has_graph |= kind == "graph"
            if message == "entry" and number in (_KEY, _VALUE):
                texts[number] = bytes(data[first:last])
            elif kind is not None:
                stack.append((kind, first, last, depth + (kind == "graph")))
        if texts.get(_KEY) == b"location":
            locations.add(texts.get(_VALUE, b"").decode())
    if not has_graph:
        raise ValueError("it is not an ONNX file.")
    return locations


def _iterate_fields(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the fields of a protobuf message that have a length: number, start and end of the content."""
    while start < end:
        tag, start = _read_varint(data, start, end)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            _, start = _read_varint(data, start, end)
        elif kind in (1, 5):
            start += 8 if kind == 1 else 4
        elif kind == 2:
            length, start = _read_varint(data, start, end)
            if start + length > end:
                raise ValueError("it is not an ONNX file, or was cut short.")
            yield number, start, start + length
            start += length
        else:
            raise ValueError("it is not an ONNX file.")
    if start != end:
        raise ValueError("it is not an ONNX file, or was cut short.")


def _read_varint(data: memoryview, start: int, end: int) -> tuple[int, int]:
    """Return a number of variable length (base 128, lowest digits first), and the position after it."""
    value = shift = 0
    while start < end and shift < 70:
        byte = data[start]
        value |= (byte & 127) << shift
        start, shift = start + 1, shift + 7
        if byte < 128:
            return value, start
    raise ValueError("it is not an ONNX file, or was cut short.")


def _make_port(argument: Any) -> Port:
    kind = argument.type.removeprefix("tensor(").removesuffix(")")
    sizes = tuple(size if isinstance(size, int) else None for size in argument.shape or ())
    return Port(argument.name, _NUMPY.get(kind, kind), sizes)


def _first_line(error: BaseException) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0].strip()
    return line if line.endswith((".", "!", "?")) else f"{line}."
