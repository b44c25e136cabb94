"""File writers complete a file at the end of a `with` block.

After an error they only close it.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from trainer.rows.prepared import TokenFile
from trainer.store.file_writer import FileWriter


class RecordingWriter(FileWriter):
    """Writer that records its calls.

    full: completing the file fails, as on a full disk.
    """

    def __init__(self, *, full: bool = False):
        self.calls: list[str] = []
        self._full = full

    def _finish(self) -> None:
        self.calls.append("finish")
        if self._full:
            raise OSError("No space left on device")

    def _close(self) -> None:
        self.calls.append("close")


def test_a_block_without_an_error_completes_the_file_and_closes_it() -> None:
    with RecordingWriter() as writer:
        assert writer.calls == []
    assert writer.calls == ["finish", "close"]


def test_a_block_that_raises_closes_the_file_and_propagates_the_error() -> None:
    writer = RecordingWriter()
    with pytest.raises(KeyError), writer:
        raise KeyError("of the block")
    assert writer.calls == ["close"]


def test_a_file_that_cannot_be_completed_is_closed() -> None:
    writer = RecordingWriter(full=True)
    with pytest.raises(OSError, match="No space"), writer:
        pass
    assert writer.calls == ["finish", "close"]


def test_buffered_rows_are_not_written_if_a_block_raises(tmp_path: Path) -> None:
    row = {"input_ids": [1, 2], "labels": [1, 2]}
    interrupted = TokenFile(tmp_path / "rows.parquet")
    interrupted.add(row)
    with pytest.raises(KeyError), interrupted:
        raise KeyError("of the block")
    assert pq.read_table(tmp_path / "rows.parquet").num_rows == 0
    with TokenFile(tmp_path / "rows.parquet") as file:
        file.add(row)
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == [row]
