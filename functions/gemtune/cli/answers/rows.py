"""Files of rows that a trained model is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemtune.cli.connection import Connection
from gemtune.client.calls import Call
from gemtune.client.errors import Refused
from gemtune.errors import JobNotFound, RecordUnreadable, SpecUnreadable

Columns = Mapping[str, str | None]
# Codes of errors of a service that cannot tell a job's request.
REQUEST_IS_GONE = {JobNotFound.code, RecordUnreadable.code, SpecUnreadable.code}


@dataclass(frozen=True, slots=True)
class RowsFile:
    """File of rows, and the `dataset_columns` of the training.

    They apply to rows that have such columns.
    """

    path: Path
    columns: Columns


def training_columns(connection: Connection, status: dict[str, Any]) -> Columns:
    """Return the `dataset_columns` of the training of a job.

    An export of its own has those of the job whose model it exports. There are none if the service does not have the
    request any more, or cannot read it after an update. Prints any other error and exits.
    """
    job_id: str | None = status["job_id"]
    with connection.reporting_outages(), connection.reporting_refusals():
        while job_id is not None:
            try:
                answer = connection.transport.send(Call("GET", f"/jobs/{job_id}/request"))
            except Refused as error:
                if error.code not in REQUEST_IS_GONE:
                    raise
                return {}
            if answer["path"] == "/train":
                return dict(answer["request"].get("dataset_columns") or {})
            job_id = answer["path"].split("/")[2]  # /jobs/<id>/exports
    return {}
