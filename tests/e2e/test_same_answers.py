"""The command line gives the same answers on both backends."""

from __future__ import annotations

import json
import re
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from tests import rows
from tests.e2e.api import Api
from tests.e2e.cloud_service import MODEL, CloudService
from tests.e2e.service import Service
from tests.emulators.cloud import Cloud
from tests.emulators.sdk import NoEmulators
from tests.forking_python import ForkingPython

pytestmark = pytest.mark.emulators
# Events of a job that waits for another one.
OF_WAITING = ("job_waiting", "job_admitted")


def transcript(service: Api, model: str, tmp_path: Path) -> list[tuple[str, int, str, str]]:
    """Run every command in a sensible order.

    Returns each command with its exit code, output and errors, where values that differ by nature are replaced.
    """
    results: list[tuple[str, int, str, str]] = []
    request = {
        "processed_dataset_id": "chats",
        "training_config": {"base_model_id": model, "max_steps": 2, "gradient_accumulation_steps": 1},
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    (tmp_path / "broken.json").write_text(json.dumps(request | {"modality": "smell", "nope": 1}))
    (tmp_path / "open.json").write_text(json.dumps(request | {"hf_token": "hf_fakefakefake"}))

    def run(*arguments: str, stdin: str | None = None) -> str:
        completed = service.cli(*arguments, stdin=stdin)
        results.append(
            (
                " ".join(arguments),
                completed.returncode,
                normalized(completed.stdout, model),
                normalized(completed.stderr, model),
            )
        )
        return completed.stdout

    run("listen", "--subscription", "same", "--once")
    run("secret", "mine", stdin="hf_fakefakefake\n")
    run("train", str(tmp_path / "broken.json"))
    run("publish", str(tmp_path / "open.json"))
    job_id = json.loads(run("--json", "train", str(tmp_path / "request.json"), "--idempotency-key", "k"))["job_id"]
    run("--json", "train", str(tmp_path / "request.json"), "--idempotency-key", "k")
    run("events", job_id, "--follow")
    service.completed(job_id)
    run("status", job_id)
    run("--json", "status", job_id)
    run("--json", "events", job_id)
    run("cancel", job_id)
    export_id = json.loads(run("--json", "export", job_id, "--format", "adapter", "--idempotency-key", "e"))["job_id"]
    run("events", export_id, "--follow")
    service.completed(export_id)
    run("status", export_id)
    run("--json", "artifacts", export_id)
    run("artifacts", export_id, "--download", str(tmp_path / "result"))
    run("export", job_id, "--format", "adapter", "--quantization", "q4")
    run("delete", job_id)
    run("status", job_id)
    run("export", export_id, "--format", "adapter")
    run("jobs", "--status", "failed")
    run("jobs", "--status", "nope")
    run("--json", "publish", str(tmp_path / "request.json"))  # last: nobody waits for this job
    return results


def with_sorted_keys(line: str) -> str:
    """Sort the keys of a line of JSON: Firestore does not keep their order.

    Events of waiting, which depend on when an earlier job ends, are left out, and the others lose their numbers.
    """
    if not line.startswith("{"):
        return line
    answer = json.loads(line)
    if "events" in answer:
        answer["events"] = [event | {"seq": 0} for event in answer["events"] if event["type"] not in OF_WAITING]
    return json.dumps(answer, sort_keys=True)


def without_waiting(text: str) -> str:
    """Leave out the printed events of waiting, and the numbers of the others."""
    lines = [line for line in text.splitlines() if not any(kind in line for kind in OF_WAITING)]
    return "\n".join(re.sub(r"^ *\d+(?=  \d{4}-\d\d)", "N", line) for line in lines)


def without_plans(text: str) -> str:
    """Replace plans, whose machine, minutes and prices are the backend's."""
    begin = text.find('"plan": {')
    while begin >= 0:
        end = begin + len('"plan": {')
        depth = 1
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        text = f'{text[:begin]}"plan": PLAN{text[end:]}'
        begin = text.find('"plan": {')
    text = re.sub(r"^plan: .*$", "plan: PLAN", text, flags=re.MULTILINE)
    return re.sub(r"prepare_done +plan: .*?(?=, rows: |$)", "prepare_done plan: PLAN", text, flags=re.MULTILINE)


def normalized(text: str, model: str) -> str:
    text = without_waiting("\n".join(map(with_sorted_keys, text.splitlines())))
    text = without_plans(text)
    text = text.replace(json.dumps(model)[1:-1], "MODEL").replace(model, "MODEL")
    text = re.sub(r"(training|export)_chats_[\w-]+", "JOB", text)
    text = re.sub(r"(gs://|/)[\w./-]*(?=jobs/JOB|specs/)", "BUCKET/", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)?", "TIME", text)
    text = re.sub(r"gemtune-(prepare|train|export)-[\w-]+", r"\1-RUN", text)
    text = re.sub(r'"machine": "[\w-]+"', '"machine": "MACHINE"', text)
    text = re.sub(r"machine: [\w-]+", "machine: MACHINE", text)
    text = re.sub(r'(seconds"?: )\d+\b(?!\.)', r"\1FLOAT", text)
    text = re.sub(r'"plan_error": (null|-?[\d.e-]+|\{[^}]*\})', '"plan_error": ERROR', text)
    text = re.sub(r'"cost_usd": (null|[\d.e-]+)', '"cost_usd": COST', text)
    text = re.sub(r'"usd": (null|[\d.e-]+)', '"usd": COST', text)
    text = re.sub(r"(spent: .* minutes), [\d.]+ USD", r"\1", text)
    text = re.sub(r'"execution": "[\w-]{36}"', '"execution": "ID"', text)
    text = re.sub(r'"message_id": "\d+"', '"message_id": "ID"', text)
    text = re.sub(r"[0-9a-f]{64}", "SHA256", text)
    text = re.sub(r" +\d+  SHA256", "N SHA256", text)
    text = re.sub(r'"(url|path)": (null|"[^"]+")', r'"\1": "LINK"', text)
    text = re.sub(r'"owner": "(local|anonymous)"', '"owner": "ME"', text)
    text = re.sub(r"\d+ (tokens/s|s left)", r"FLOAT \1", text)
    text = re.sub(r"(?<=BUCKET/)\S*", lambda path: re.sub(r"\d+", "N", path[0]), text)
    return re.sub(r"-?\d+\.\d+(e-?\d+)?|(?<=bytes\": )\d+", "FLOAT", text)


def _first_difference(one: str, other: str) -> tuple[str, str]:
    """Return where two lines begin to differ, since pytest cuts long ones."""
    place = next(index for index, pair in enumerate(zip_longest(one, other)) if pair[0] != pair[1])
    return one[max(0, place - 60) : place + 60], other[max(0, place - 60) : place + 60]


def test_the_same_commands_get_the_same_answers(tmp_path: Path, tiny: Path, forking: ForkingPython) -> None:
    transcripts: dict[str, Any] = {}
    try:
        cloud = Cloud(tmp_path / "cloud", forking=forking, forks_first=True)
    except NoEmulators as error:
        pytest.skip(str(error))
    with cloud:
        cloud_service = CloudService(cloud)
        cloud_service.put_dataset("chats", rows.train_rows(32), rows.held_out_rows(8))
        cloud_service.put_model(tiny)
        transcripts["gcp"] = transcript(cloud_service, MODEL, tmp_path)
    (tmp_path / "home").mkdir()
    with Service(tmp_path / "home", forking) as service:
        service.put_dataset("chats", rows.train_rows(32), rows.held_out_rows(8))
        transcripts["embedded"] = transcript(service, str(tiny), tmp_path)
    for local, remote in zip(transcripts["embedded"], transcripts["gcp"], strict=True):
        command, code, output, errors = local
        assert (code, errors) == (remote[1], remote[3]), command
        lines = zip_longest(output.splitlines(), remote[2].splitlines())
        differing = [(local_line, remote_line) for local_line, remote_line in lines if local_line != remote_line]
        assert differing == [], (command, *(_first_difference(*pair) for pair in differing if None not in pair))
