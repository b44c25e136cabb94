"""Output of steps on a workstation, which the server writes to files."""

from __future__ import annotations

from collections.abc import Sequence

from gemtune.errors import BadPageToken
from gemtune.jobs.record import Job
from gemtune.ports import LogLine, LogLines, Objects
from gemtune.redaction import redact
from gemtune.untrusted import MAX_NUMBER, Unreadable, read_number

# Bytes that one call reads. A line that is longer is returned in pieces.
BLOCK_BYTES = 256 * 1024


class FileLogs:
    """`ports.Logs` in the export bucket, one object per execution."""

    def __init__(self, export: Objects):
        self._export = export

    def executions(self, job: Job) -> Sequence[str]:
        """Return the executions by the time of their last output.

        Those that ended before their attempt began are among them.
        """
        prefix = _folder(job.job_id)
        stats = sorted(self._export.list(prefix), key=lambda stat: (stat.updated_at, stat.name))
        return [stat.name.removeprefix(prefix).removesuffix(".log") for stat in stats]

    def read(self, job_id: str, execution: str, *, position: str, limit: int, is_over: bool) -> LogLines:
        """Return lines from a byte position on.

        The last line of a running execution is returned when it is whole. Raises BadPageToken.
        """
        try:
            start = read_number(position or "0", least=0, most=MAX_NUMBER)
        except Unreadable:
            raise BadPageToken() from None
        block = self._export.read_range(f"{_folder(job_id)}{execution}.log", start, BLOCK_BYTES)
        *lines, rest = block.split(b"\n")
        ends = is_over and len(block) < BLOCK_BYTES
        if rest and len(lines) < limit and (ends or (not lines and len(block) == BLOCK_BYTES)):
            return LogLines([_line(line) for line in [*lines, rest]], str(start + len(block)))
        lines = lines[:limit]
        return LogLines([_line(line) for line in lines], str(start + sum(len(line) + 1 for line in lines)))


def _folder(job_id: str) -> str:
    return f"jobs/{job_id}/logs/"


def _line(line: bytes) -> LogLine:
    """Return a line without tokens, and without what a progress bar overwrote."""
    return LogLine(None, redact(line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]))
