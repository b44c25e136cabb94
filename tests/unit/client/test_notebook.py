"""The clients in a kernel of Jupyter, where one can be started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gemtune import Client
from gemtune.client import curves
from tests.fakes import World
from tests.unit.client.test_client import url
from tests.unit.conftest import FakeService

__all__ = ["url"]  # a fixture
ENTRIES = [{"train_step": step, "epoch": 0.5, "loss": 3.0 - step, "at": "2026-11-24T12:00:00Z"} for step in (1, 2)]


def serve(service: FakeService, world: World, url: str) -> str:
    """Let a service have a job that is over at the third look; return its id."""
    job_id = world.submit()
    running = Client(url).job(job_id).status().model_dump(mode="json") | {"status": "training"}
    ended = running | {"status": "completed", "finished_at": "2026-11-24T12:00:00Z"}
    service.answers["GET", f"/jobs/{job_id}/status"] = [
        (200, running),
        None,
        (200, ended),
        (200, running),
        (200, ended),
    ]
    service.answers["GET", f"/jobs/{job_id}/metrics"] = (200, {"metrics": ENTRIES})
    return job_id


def test_a_curve_is_drawn_until_the_job_is_over(
    service: FakeService, world: World, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(curves, "open_picture", lambda: shown.append)
    monkeypatch.setattr("gemtune.client.operations.POLL_SECONDS", 0.0)
    assert Client(service.url).job(serve(service, world, url)).watch().status == "completed"
    assert [picture.count("<polyline") for picture in shown] == [1, 1], "an outage ended the curve"
    assert ": completed<" in shown[-1]


@pytest.mark.jupyter
def test_both_clients_work_in_a_notebook(service: FakeService, world: World, url: str, tmp_path: Path) -> None:
    reason = "without nbclient and ipykernel there is no kernel of Jupyter"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    nbformat: Any = pytest.importorskip("nbformat", reason=reason)
    job_id = serve(service, world, url)
    cells = (
        f"from gemtune import AsyncClient, Client; job = Client({service.url!r}).job({job_id!r}); job.watch().status",
        "job.metrics()",
        f"other = await AsyncClient({service.url!r}).job({job_id!r}); (await other.watch()).status",
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell in (notebook.cells[0], notebook.cells[2]):
        pictures = [output.data["text/html"] for output in cell.outputs if "text/html" in output.get("data", {})]
        assert len(pictures) == 1, "each look added a picture"
        assert "<polyline" in pictures[0]
        assert "completed" in pictures[0]
    assert "2.0" in str(notebook.cells[1].outputs[0].data)
