"""The tracker `tensorboard`: event files in the run folder, for `tensorboard --logdir runs`."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from cost.draws.distribution import DrawCells
from launch.record.tracking import OpenTracker, RunInfo, Sample

FOLDER = "tensorboard"
"""Where the event files lie, in the run folder."""
MOST_SHOWN = 16
"""Responses of a step that are shown as text."""


@dataclass(frozen=True, slots=True)
class TensorboardTracker:
    """Writes TensorBoard's event files; needs `pip install -e ".[tensorboard]"`, not TensorFlow.

    A run that goes on after a stop begins a new file, which tells TensorBoard to pass over what
    came after the step that the run goes on from.
    """

    samples: bool = True
    """Whether to write responses too, as text."""

    def open(self, run: RunInfo) -> OpenTracker:
        """Begin a file.

        Raises:
            ValueError: If the package is not installed.
        """
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise ValueError(
                'tracker.tensorboard needs the package tensorboard: pip install -e ".[tensorboard]"'
            ) from error
        writer = EventFileWriter(str(run.run_dir / FOLDER))
        return _OpenTensorboard(writer, run, self.samples)


class _OpenTensorboard:
    def __init__(self, writer: Any, run: RunInfo, with_samples: bool) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        self._writer = writer
        self._with_samples = with_samples
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._metadata = summary_pb2.SummaryMetadata
        self._last = run.first_step
        # A run that goes on from its start has lost steps too.
        if run.first_step or run.restarts:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            first = run.first_step + 1
            writer.add_event(self._event(wall_time=time.time(), step=first, session_log=start))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._last = step
        self._add(step, [self._scalar(key, value) for key, value in metrics.items()])

    def samples(self, step: int, rows: Sequence[Sample]) -> None:
        if not self._with_samples or not rows:
            return
        from tensorboard.compat.proto import tensor_pb2, types_pb2

        content = [_markdown(row).encode("utf-8", "replace") for row in rows[:MOST_SHOWN]]
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=content)
        tensor.tensor_shape.dim.add(size=len(content))
        plugin = self._metadata.PluginData(plugin_name="text")
        text = self._metadata(plugin_data=plugin)
        self._add(step, [self._summary.Value(tag="samples", metadata=text, tensor=tensor)])

    def cells(self, step: int, cells: DrawCells) -> None:
        """The metrics say how far from uniform the draws are; the files have the rest."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def close(self, summary: Mapping[str, object]) -> None:
        values = [
            self._scalar(f"summary/{key}", float(value))
            for key, value in summary.items()
            if isinstance(value, Real) and not isinstance(value, bool)
        ]
        if values:
            self._add(self._last, values)
        self._writer.close()

    def _scalar(self, key: str, value: float) -> Any:
        return self._summary.Value(tag=key, simple_value=value)

    def _add(self, step: int, values: Sequence[Any]) -> None:
        summary = self._summary(value=values)
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))


def _markdown(row: Sample) -> str:
    """A sample as TensorBoard shows it; indented, so that nothing in it is taken for markup."""
    parts = [f"reward {row.reward:g}, expected and found:"]
    for text in (row.expected, row.answer, row.prompt, row.response):
        parts.append("\n".join(f"    {line}" for line in text.splitlines() or [""]))
    return "\n\n".join(parts)
