"""A TensorBoard file of scalars, written while a training runs.

It grows by one record an epoch and is written anew from the history when a stopped training goes on; its times are
epochs, so that the same training gives the same bytes, and its name tells no host.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import google_crc32c

EVENTS = "events.out.tfevents.0.gigamil"
"""TensorBoard finds a file by ``tfevents`` in its name."""
Row = Mapping[str, float]


class EventFile:
    """A TensorBoard file of scalars."""

    def __init__(self, file: IO[bytes]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._event, self._summary, self._file = Event, Summary, file
        self._write(Event(wall_time=0.0, file_version="brain.Event:2"))

    def add(self, row: Row) -> None:
        """Add one epoch, and see that it can be read."""
        values = [self._summary.Value(tag=tag_of(name), simple_value=value) for name, value in row.items()]
        epoch = int(row["epoch"])
        self._write(self._event(wall_time=float(epoch), step=epoch, summary=self._summary(value=values)))

    def _write(self, event: Any) -> None:
        self._file.write(record(event.SerializeToString()))
        self._file.flush()


def record(data: bytes) -> bytes:
    """Return data as a TFRecord: length, its checksum, data, its checksum.

    TensorBoard's own ``RecordWriter`` gives the same bytes; its import costs every training half a second, for boto3.
    """
    length = struct.pack("<Q", len(data))
    return length + _masked_crc(length) + data + _masked_crc(data)


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def tag_of(name: str) -> str:
    """Return the name with its part of training as the group: val_loss is val/loss."""
    part, _, rest = name.partition("_")
    return f"{part}/{rest}" if part in {"train", "val"} else name


@contextmanager
def event_file(folder: Path, history: Sequence[Row]) -> Iterator[EventFile]:
    """Give the event file of a model, holding the history so far."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / EVENTS).open("wb") as file:
        events = EventFile(file)
        for row in history:
            events.add(row)
        yield events
