"""Output of steps on a workstation, which the server writes to files."""

from __future__ import annotations

from collections.abc import Sequence

from gemtune.errors import BadPageToken
from gemtune.jobs.record import Job
from gemtune.jobs.steps import executions_of
from gemtune.ports import LogLine, LogLines, Objects
from gemtune.redaction import redact, redact_rest
from gemtune.untrusted import MAX_NUMBER, Unreadable, read_number

# Bytes that one call reads. A line that is longer is returned in pieces.
BLOCK_BYTES = 256 * 1024
# Bytes before a position that are looked at, since it may be in the middle of a token.
BEFORE_BYTES = 1024


class FileLogs:
    """`ports.Logs` in the export bucket, one object per execution."""

    def __init__(self, export: Objects):
        self._export = export

    def executions(self, job: Job) -> Sequence[str]:
        """Return the executions in the order of their attempts.

        Executions that ended before their attempt began are among them, by the time of their last output. A replaced
        attempt may write its last output later than the first of the next one.
        """
        prefix = _folder(job.job_id)
        written = {
            stat.name.removeprefix(prefix).removesuffix(".log"): stat.updated_at for stat in self._export.list(prefix)
        }
        ordered = [name for name in executions_of(job) if name in written]
        for name in sorted(written.keys() - set(ordered), key=lambda name: (written[name], name)):
            earlier = [number for number, other in enumerate(ordered) if written[other] <= written[name]]
            ordered.insert(max(earlier, default=-1) + 1, name)
        return ordered

    def read(self, job_id: str, execution: str, *, position: str, limit: int, is_over: bool) -> LogLines:
        """Return lines from a byte position on.

        The last line of a running execution is returned when it is whole. Raises BadPageToken.
        """
        try:
            start = read_number(position or "0", least=0, most=MAX_NUMBER)
        except Unreadable:
            raise BadPageToken() from None
        name, begin = f"{_folder(job_id)}{execution}.log", max(0, start - BEFORE_BYTES)
        before = self._export.read_range(name, begin, start - begin).rpartition(b"\n")[2] if start else b""
        block = self._export.read_range(name, start, BLOCK_BYTES)
        *lines, rest = block.split(b"\n")
        ends = is_over and len(block) < BLOCK_BYTES
        if rest and len(lines) < limit and (ends or (not lines and len(block) == BLOCK_BYTES)):
            return LogLines(_lines(before, [*lines, rest]), str(start + len(block)))
        lines = lines[:limit]
        return LogLines(_lines(before, lines), str(start + sum(len(line) + 1 for line in lines)))


def _folder(job_id: str) -> str:
    return f"jobs/{job_id}/logs/"


def _lines(before: bytes, lines: Sequence[bytes]) -> list[LogLine]:
    """Return lines without tokens.

    before: beginning of the first line that is not returned.
    """
    texts = [_text(line) for line in lines]
    redacted = [redact_rest(before.decode(errors="replace"), text) for text in texts[:1]] + list(map(redact, texts[1:]))
    return [LogLine(None, text) for text in redacted]


def _text(line: bytes) -> str:
    """Return the text of a line without what a progress bar overwrote."""
    return line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
