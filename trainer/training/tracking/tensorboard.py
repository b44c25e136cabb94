"""TensorBoard event files, in `jobs/<job_id>/tensorboard/<attempt>/`."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.context import Context
from trainer.process.imports import garbage_collection_paused


class EventFiles:
    """Event files of an attempt, uploaded to the object store by `persist`.

    `tensorboard --logdir` of the parent folder shows each attempt of a job as a run.
    """

    def __init__(self, context: Context):
        with garbage_collection_paused():
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._folder = context.work / "tensorboard"
        self._objects = context.buckets.export
        self._prefix = f"{context.prefix}/tensorboard/{context.fence.attempt}"
        self._clock = context.clock
        self._writer = EventFileWriter(str(self._folder))

    def log(self, train_step: int, metrics: Mapping[str, float]) -> None:
        """Write metrics, with the time of the service's clock."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        at = self._clock.now().timestamp()
        self._writer.add_event(Event(wall_time=at, step=train_step, summary=Summary(value=values)))

    def persist(self) -> None:
        """Upload the event files as they are now. Raises OSError."""
        self._writer.flush()
        for path in self._folder.iterdir():
            self._objects.upload(path, f"{self._prefix}/{path.name}")

    def close(self, *, failed: bool) -> None:
        self._writer.close()
