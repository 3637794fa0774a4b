"""TensorBoard: event files in a local directory. Needs neither torch nor TensorFlow."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from figureground.core.extras import hint
from figureground.tracking.tracker import Run, Tracker

DIRECTORY = "TENSORBOARD_LOGGING_DIR"
"""Environment variable with the directory of all runs; the default is `runs` in the current directory."""


class TensorBoard(Tracker):
    """Writes a run to `runs/GROUP/NAME-ID`; nothing leaves the machine."""

    NAME = "tensorboard"
    PACKAGE = "tensorboard"
    INSTALL = hint("tensorboard")

    def begin(self, run: Run) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = Path(os.environ.get(DIRECTORY) or "runs") / run.group / f"{run.name}-{run.id}"
        folder.mkdir(parents=True, exist_ok=True)
        # Not TensorBoard's own writer: it writes in a thread, so that errors come late, and names the host in the file.
        file = (folder / f"events.out.tfevents.{time.time():017.6f}.{os.getpid()}").open("xb")
        self._writer, self._step = RecordWriter(file), run.step
        self._write(file_version="brain.Event:2")
        if run.resumed:  # hides what was reported after the state from which the run goes on
            self._write(step=run.step + 1, session_log=SessionLog(status=SessionLog.START))
        else:
            self._text("config", f"```json\n{json.dumps(run.config, indent=2, ensure_ascii=False)}\n```")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._add([{"tag": name, "simple_value": value} for name, value in values.items()], step)

    def image(self, name: str, path: Path, step: int) -> None:
        with Image.open(path) as image:
            width, height = image.size
        encoded = {"width": width, "height": height, "colorspace": 3, "encoded_image_string": path.read_bytes()}
        self._add([{"tag": name, "image": encoded}], step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
        lines = [[str(value) for value in columns], ["---"] * len(columns)]
        lines += [["–" if value is None else str(value) for value in row] for row in rows]
        self._text(name, "\n".join("| " + " | ".join(line) + " |" for line in lines))

    def end(self, finished: bool) -> None:
        self._writer.close()

    def _text(self, name: str, markdown: str) -> None:
        metadata = {"plugin_data": {"plugin_name": "text"}}
        tensor = {"dtype": "DT_STRING", "string_val": [markdown.encode()], "tensor_shape": {"dim": [{"size": 1}]}}
        self._add([{"tag": name, "metadata": metadata, "tensor": tensor}], self._step)

    def _add(self, values: list[dict[str, Any]], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._write(step=step, summary=Summary(value=[Summary.Value(**value) for value in values]))

    def _write(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.write(Event(wall_time=time.time(), **event).SerializeToString())
        self._writer.flush()  # a killed process must not lose what precedes its saved state
