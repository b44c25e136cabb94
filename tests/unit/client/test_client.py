"""The clients against the real API in a thread, and against a fake service."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from functions_framework import create_app
from werkzeug.serving import make_server

import gemtune
from gemtune import AsyncClient, Client
from gemtune.client import asynchronous, curves, operations, sync
from gemtune.client.calls import Address, Call
from gemtune.client.errors import BadUse, JobFailed, NotAnAnswer, Refused, Unreachable
from gemtune.handlers import answers
from gemtune.handlers.endpoints import ENDPOINTS, Document
from gemtune.jobs.parts.results import Artifact, JobWarning
from gemtune.jobs.record import Claim
from gemtune.jobs.status import Step
from tests.fakes import World, request
from tests.handlers.conftest import MAIN
from tests.unit.conftest import FakeService

ROWS = '{"prompt": "a", "completion": "b"}\n' * 20
MODEL = "google/gemma-3-270m-it"
JOB = "training_d_m_0123456789ab"


@pytest.fixture
def url(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve the API of a world; its jobs wait, as no server launches them."""
    monkeypatch.setattr("gemtune.bootstrap.services", lambda: world.services)
    server = make_server("127.0.0.1", 0, create_app(target="api", source=str(MAIN)), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(ROWS)
    return path


def test_a_number_that_json_does_not_have_is_refused_by_the_service(url: str, world: World, rows: Path) -> None:
    job_id = world.submit()
    world.services.pause(job_id)
    with Client(url) as client:
        for value in (float("nan"), float("inf")):
            with pytest.raises(Refused, match="finite"):
                client.job(job_id).resume(max_hours=value)
            with pytest.raises(Refused, match="finite"):
                client.train(data=rows, model=MODEL, learning_rate=value)


def test_a_training_is_submitted_watched_and_ended(url: str, world: World, rows: Path) -> None:
    with Client(url) as client:
        job = client.train(data=rows, model=MODEL, epochs=2, name="tickets", fields={"training_config.packing": True})
        assert job.status().status == "queued"
        spec = world.services.buckets.config.read(world.services.store.get(job.job_id).spec_name).decode()
        assert '"epochs":2' in spec.replace(" ", "")
        assert '"packing":true' in spec.replace(" ", "")
        assert [each.job_id for each in client.jobs()] == [job.job_id]
        assert client.job("tickets") == client.job(job.job_id[:20]) == job
        assert [event.type for event in job.events()] == ["job_queued"]
        assert list(job.metrics()) == job.logs() == list(job.artifacts()) == []
        assert job.pause().status == "paused"
        assert job.resume().status == "queued"
        assert job.cancel().status == "cancelled"
        with pytest.raises(JobFailed, match="cancelled"):
            job.wait()
        assert job.wait(check=False).status == "cancelled"
        job.delete()
        with pytest.raises(Refused, match="job_not_found") as caught:
            job.status()
        assert (caught.value.status, caught.value.code) == (404, "job_not_found")


def test_the_last_lines_of_the_output_are_returned_unless_all_are_wanted(service: FakeService) -> None:
    def page(first: int, *, more: bool) -> tuple[int, dict[str, Any]]:
        lines = [
            {"step": "train", "attempt": 1, "at": None, "text": str(number)} for number in range(first, first + 6000)
        ]
        return 200, {"lines": lines, "next_after": f"place-{first}", "more": more}

    def texts(**options: Any) -> list[str]:
        service.answers["GET", f"/jobs/{JOB}/logs"] = [page(0, more=True), page(6000, more=False)]
        return [line.text for line in client.job(JOB).logs(**options)]

    with Client(service.url) as client:
        whole = [str(number) for number in range(12_000)]
        assert texts() == whole[-operations.LOG_LINES :] == whole[2000:]
        assert texts(tail=None) == whole
        assert texts(tail=3) == whole[-3:]
        with pytest.raises(BadUse, match="tail"):
            texts(tail=-1)
    assert "after=place-0" in service.requests[-1][1]


def test_datasets_are_uploaded_once_listed_and_deleted(url: str, rows: Path) -> None:
    client = Client(url)
    dataset = client.datasets.upload(rows, eval=rows, name="mine", tags=["a"])
    assert (dataset.status, [file.path for file in dataset.files]) == ("ready", ["train.jsonl", "eval.jsonl"])
    assert client.datasets.upload(rows, eval=rows).dataset_id == dataset.dataset_id
    assert dataset.dataset_id in [each.dataset_id for each in client.datasets.list()]
    client.datasets.delete(dataset.dataset_id)
    with pytest.raises(Refused):
        client.datasets.show(dataset.dataset_id)


def test_a_dataset_is_downloaded_as_it_was_uploaded(url: str, rows: Path, tmp_path: Path) -> None:
    client = Client(url)
    dataset_id = client.datasets.upload(rows, eval=rows).dataset_id
    files = client.datasets.download(dataset_id, tmp_path / "copy")
    assert {file.relative_to(tmp_path): file.read_text() for file in files} == {
        Path("copy/eval.jsonl"): ROWS,
        Path("copy/train.jsonl"): ROWS,
    }


def test_rows_are_shown_and_the_account_of_the_month(url: str, rows: Path) -> None:
    client = Client(url)
    dataset_id = client.datasets.upload(rows).dataset_id
    assert len(client.datasets.rows(dataset_id)) == 20
    assert len(client.datasets.rows(dataset_id, limit=7)) == 7
    assert client.account().owner == "local"


def test_a_check_is_waited_for(service: FakeService) -> None:
    check = {"check_id": "c", "dataset_id": "d", "status": "running", "created_at": "2026-11-24T12:00:00Z"}
    empty = {"report": None, "error": None, "rows_left_out": None}
    failed = {"status": "failed", "error": {"code": "x", "message": "no", "hint": "yes"}}
    service.answers["POST", "/datasets/d/check"] = (202, check | empty)
    service.answers["GET", "/datasets/d/checks/c"] = [(200, check | empty), (200, check | empty | failed)]
    slept: list[float] = []
    transport = sync.Transport(sync.find_address(service.url), sleep=slept.append)
    body = {"base_model_id": "a/b", "training_config": {"max_seq_length": 64}, "samples": 3}
    state = transport.run(operations.check_dataset("d", body))
    assert (state.status, slept) == ("failed", [0.2, 0.4])
    assert service.requests[0][3] == body


def test_a_check_takes_what_a_training_takes(service: FakeService) -> None:
    check = {"check_id": "c", "dataset_id": "d", "status": "done", "created_at": "2026-11-24T12:00:00Z"}
    empty = {"report": None, "error": None, "rows_left_out": None}
    service.answers["POST", "/datasets/d/check"] = (202, check | empty)
    columns = {"prompt": "question", "id": None}
    Client(service.url).datasets.check("d", model="a/b", columns=columns, fields={"modality": "vision"})
    body = {"base_model_id": "a/b", "training_config": {}, "samples": 3}
    assert service.requests[-1][3] == body | {"dataset_columns": columns, "modality": "vision"}


def test_a_plan_leaves_nothing(url: str, rows: Path, world: World) -> None:
    client = Client(url)
    before = client.datasets.list()
    assert client.plan(data=rows, model=MODEL).train_steps is not None
    assert client.plan(request(), epochs=1).machine == "local"
    assert client.datasets.list() == before
    assert client.jobs() == []
    assert "gemma-3-270m" in [model.name for model in client.models().published]
    assert client.health().version == gemtune.VERSION


def test_a_plan_has_its_warnings(url: str, world: World, rows: Path) -> None:
    async def plan() -> operations.WarnedPlan:
        async with AsyncClient(url) as other:
            return await other.plan(data=rows, model=MODEL, max_hours=0.001)

    client = Client(url)
    planned = client.plan(data=rows, model=MODEL, max_hours=0.001)
    assert [warning.code for warning in planned.warnings] == ["cap_below_plan"]
    assert asyncio.run(plan()) == planned
    assert client.plan(data=rows, model=MODEL).warnings == ()


def test_a_submitted_job_has_the_warnings_about_its_request(url: str, world: World, rows: Path) -> None:
    async def train() -> Sequence[JobWarning]:
        async with AsyncClient(url) as other:
            return (await other.train(data=rows, model=MODEL, max_hours=0.001)).warnings

    client = Client(url)
    job = client.train(data=rows, model=MODEL, max_hours=0.001)
    assert [warning.code for warning in job.warnings] == ["cap_below_plan"]
    assert asyncio.run(train()) == job.warnings
    assert client.train(data=rows, model=MODEL).warnings == ()
    assert client.job(job.job_id).job_id == job.job_id


def test_the_plan_of_a_job_has_its_warnings(service: FakeService, url: str, rows: Path) -> None:
    planned = Client(url).plan(data=rows, model=MODEL, max_hours=0.001)
    answer = planned.model_dump(mode="json")
    service.answers["GET", f"/jobs/{JOB}/plan"] = (200, {"plan": answer, "warnings": answer.pop("warnings")})

    async def plan() -> operations.WarnedPlan:
        async with AsyncClient(service.url) as other:
            return await (await other.job(JOB)).plan()

    assert Client(service.url).job(JOB).plan() == asyncio.run(plan()) == planned
    assert planned.warnings


def test_an_interrupted_plan_leaves_nothing(url: str, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send, send_async = sync.Transport.send, asynchronous.AsyncTransport.send

    def interrupted(self: sync.Transport, call: Call[Any]) -> Any:
        if call.path == "/train":
            raise KeyboardInterrupt
        return send(self, call)

    async def cancelled(self: asynchronous.AsyncTransport, call: Call[Any]) -> Any:
        if call.path == "/train":
            raise asyncio.CancelledError
        return await send_async(self, call)

    async def plan() -> None:
        async with AsyncClient(url) as other:
            await other.plan(data=rows, model=MODEL)

    monkeypatch.setattr(sync.Transport, "send", interrupted)
    monkeypatch.setattr(asynchronous.AsyncTransport, "send", cancelled)
    client = Client(url)
    before = client.datasets.list()
    with pytest.raises(KeyboardInterrupt):
        client.plan(data=rows, model=MODEL)
    assert client.datasets.list() == before
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(plan())
    assert client.datasets.list() == before


def test_a_whole_id_finds_a_job_that_no_list_has_any_more(service: FakeService) -> None:
    job_id = "training_tickets_gemma-3-1b-it_0123456789ab"
    assert Client(service.url).job(job_id).job_id == job_id
    assert service.requests == []


def test_all_problems_of_a_request_are_in_the_error(url: str) -> None:
    with pytest.raises(Refused) as caught:
        Client(url).train({"training_config": {"epochs": -1}})
    assert {tuple(problem["loc"]) for problem in caught.value.problems} >= {
        ("processed_dataset_id",),
        ("training_config", "epochs"),
    }
    text = str(caught.value)
    assert text.startswith("request_refused:\nprocessed_dataset_id: ")
    for problem in caught.value.problems:
        assert text.count(f"{problem['loc'][-1]}: {problem['msg']}") == 1
        assert problem["hint"] is None or problem["hint"] in text
    assert repr(Client(url)) == f"Client({url!r})"
    assert repr(Client(url).job(JOB)) == f"Job(job_id={JOB!r})"


def test_arguments_that_cannot_be_used_are_refused_before_a_call(tmp_path: Path) -> None:
    client = Client("http://127.0.0.1:9")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(ROWS)
    for options in (
        {"data": tmp_path / "none.jsonl"},
        {"data": MAIN},
        {"eval": MAIN},
        {"fields": {"a": 1, "a.b": 2}},
        {"data": rows, "dataset": "tickets"},
        {"data": rows, "epoch": 3},
    ):
        with pytest.raises(BadUse):
            client.train(**options)  # type: ignore[arg-type]
    with pytest.raises(BadUse, match="no option epoch, did you mean epochs"):
        client.plan(data=rows, epoch=3)  # type: ignore[call-arg]
    with pytest.raises(Unreachable):
        client.health()
    with pytest.raises(BadUse):
        Client("ftp://x")


async def drive(url: str, rows: Path) -> list[Any]:
    async with AsyncClient(url) as client:
        job = await client.train(data=rows, model=MODEL, name="tickets")
        statuses = await asyncio.gather(job.status(), (await client.job("tickets")).status())
        await job.cancel()
        over = await job.wait(check=False)
        dataset = await client.datasets.upload(rows)
        (copy,) = await client.datasets.download(dataset.dataset_id, rows.parent / "copy")
        assert copy.read_text() == ROWS
        return [{status.job_id for status in statuses}, over.status, dataset.status, await job.download(rows.parent)]


def test_the_asynchronous_client_does_the_same(url: str, rows: Path) -> None:
    ids, *rest = asyncio.run(drive(url, rows))
    assert (len(ids), rest) == (1, ["cancelled", "ready", []])


def test_both_clients_have_the_same_verbs() -> None:
    pairs = ((sync.Client, asynchronous.AsyncClient), (sync.Job, asynchronous.AsyncJob))
    for one, other in (*pairs, (sync.Datasets, asynchronous.AsyncDatasets)):
        verbs = {name for name, _ in inspect.getmembers(one, inspect.isfunction) if not name.startswith("_")}
        assert verbs == {name for name, _ in inspect.getmembers(other, inspect.isfunction) if not name.startswith("_")}
        for verb in verbs:
            mine, theirs = (inspect.signature(getattr(each, verb)).parameters for each in (one, other))
            assert list(mine) == list(theirs), verb


def test_each_endpoint_has_a_verb_of_the_client() -> None:
    """Look for the answers of the endpoints in the code of the clients."""
    folder = Path(sync.__file__).parent
    for module in ("sync", "asynchronous"):
        code = "".join((folder / f"{name}.py").read_text() for name in (module, "operations", "references", "uploads"))
        unused = [
            f"{endpoint.method} {endpoint.path}"
            for endpoint in ENDPOINTS
            if endpoint.answer not in (Document, answers.AcceptedOrPlanned)
            and not re.search(rf"\b{endpoint.answer.__name__}\b", code)
        ]
        assert unused == []


def test_a_job_is_waited_for_across_outages(world: World, url: str, service: FakeService) -> None:
    job_id = world.submit()
    status = sync.Client(url).job(job_id).status().model_dump(mode="json")
    failed = status | {
        "status": "failed",
        "finished_at": "2026-11-24T12:00:00Z",
        "error": "no rows",
        "error_detail": {"code": "no_rows", "message": "no rows", "hint": "add some", "step": "prepare"},
    }
    service.answers["GET", f"/jobs/{job_id}/status"] = [(200, status), None, (503, {}), (200, failed)]
    slept: list[float] = []
    transport = sync.Transport(sync.find_address(service.url), sleep=slept.append)
    with pytest.raises(JobFailed) as caught:
        transport.run(operations.wait(job_id, timeout=None, check=True))
    assert (caught.value.code, caught.value.hint, len(slept)) == ("no_rows", "add some", 3)
    service.is_gemtune = False
    service.answers["GET", f"/jobs/{job_id}/status"] = [
        (429, "Rate exceeded."),
        (500, "The instance ended."),
        (200, {}),
    ]
    with pytest.raises(NotAnAnswer):
        transport.run(operations.wait(job_id, timeout=None, check=True))
    assert len(slept) == 5
    service.is_gemtune = True
    service.answers["GET", f"/jobs/{job_id}/status"] = (200, status)
    with pytest.raises(TimeoutError):
        transport.run(operations.wait(job_id, timeout=2, check=True))
    service.answers["GET", f"/jobs/{job_id}/status"] = None
    with pytest.raises(Unreachable):
        transport.run(operations.wait(job_id, timeout=None, check=True))
    assert sum(slept) > operations.PATIENCE_SECONDS


def test_a_result_is_downloaded(url: str, world: World, tmp_path: Path) -> None:
    job_id, advance = world.submit(), world.services.advance
    world.services.dispatch.launch(job_id)
    claim = Claim(launch=1, execution="first")
    world.services.control.claim(job_id, claim)
    begun = advance.begin(job_id, Step.PREPARE, claim, execution="x")
    assert begun is not None
    name = f"jobs/{job_id}/export/1/deep/a.bin"
    artifact = Artifact(name="deep/a.bin", uri=name, bytes=1, sha256=hashlib.sha256(b"1").hexdigest())
    world.services.buckets.export.write(name, b"1")
    advance.record_artifacts(job_id, begun[1], [artifact])
    (file,) = Client(url).job(job_id).download(tmp_path / "result")
    assert (file, file.read_bytes()) == (tmp_path / "result" / "deep" / "a.bin", b"1")


def test_an_answer_of_something_else_is_named(service: FakeService) -> None:
    service.answers["GET", "/health"] = (200, {"status": "sick"})
    service.answers["GET", "/models"] = (200, ["a list"])
    client = Client(service.url)
    for call in (client.health, client.models):
        with pytest.raises(NotAnAnswer):
            call()


def test_a_curve_has_both_losses_and_survives_any_history() -> None:
    entries = [{"train_step": 1, "loss": 2.0}, {"train_step": 2, "loss": 1.0}, {"train_step": 2, "eval_loss": 1.5}]
    picture = curves.draw(entries, "a <b>")
    assert picture.count("<polyline") == 2
    assert "a &lt;b>" in picture
    for few in ([], entries[:1], [{"train_step": 1, "loss": None}]):
        assert curves.draw(few, "x").startswith("<svg")


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import gemtune; print(*sorted(set(sys.modules) - before))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert {name for name in loaded if "typing" not in name and name not in sys.stdlib_module_names} <= {
        "gemtune",
        "collections.abc",
    }
    with pytest.raises(AttributeError):
        gemtune.nothing  # noqa: B018


def test_only_plain_http_on_this_machine_does_without_known_authorities() -> None:
    plain = Address("http://127.0.0.1:8080").verify
    assert isinstance(plain, ssl.SSLContext)
    assert (plain.verify_mode, plain.check_hostname, plain.get_ca_certs()) == (ssl.CERT_REQUIRED, True, [])
    for url in ("https://127.0.0.1:8080", "https://gemtune.example", "http://gemtune.example"):
        assert Address(url).verify is True  # a proxy of http may have a certificate
