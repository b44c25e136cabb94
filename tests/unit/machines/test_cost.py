"""The cost of a job: calculated by hand and by the list of prices."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gemtune.bootstrap import Services
from gemtune.handlers.answers import JobStatus
from gemtune.jobs.record import Job, StepRecord
from gemtune.jobs.status import Status, Step
from gemtune.machines import cost
from gemtune.machines.choice import CPU_STEPS, MACHINES
from gemtune.machines.cost import LIST_PRICES, Prices
from gemtune.settings import Settings

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def job(machine: str | None, status: Status = Status.COMPLETED, **seconds: float) -> Job:
    steps = {step: StepRecord(seconds=seconds.get(step.value, 0.0)) for step in Step}
    fixed: dict[str, Any] = {
        "job_id": "j",
        "job_name": "n",
        "modality": "text",
        "base_model_id": "google/gemma-3-1b-it",
        "processed_dataset_id": "d",
        "spec_uri": "u",
        "spec_name": "s",
        "source": "http",
        "owner": "o",
        "request_hash": "h",
        "created_at": NOON,
        "updated_at": NOON,
    }
    return Job(status=status, machine=machine, steps=steps, **fixed)


def usd_of(job: Job) -> float | None:
    return cost.spending(job, LIST_PRICES).usd


def test_the_steps_of_a_job_cost_by_the_second_of_their_machines() -> None:
    # prepare: 4 vCPU, 16 GiB. train: 8 vCPU, 32 GiB, an L4. export: 8 vCPU, 32 GiB.
    prepare, train, export = 60 * (4 * 18 + 16 * 2), 3600 * (8 * 18 + 32 * 2 + 186.7), 90 * (8 * 18 + 32 * 2)
    usd = usd_of(job("l4", prepare=60, train=3600, export=90))
    assert usd == pytest.approx((prepare + train + export) / 1e6, abs=1e-4)
    assert usd == pytest.approx(1.446, abs=0.001)


def test_steps_that_did_not_run_cost_nothing() -> None:
    assert usd_of(job(None, Status.FAILED, prepare=10)) == pytest.approx(0.001, abs=1e-4)
    assert usd_of(job("l4", Status.CANCELLED)) == 0
    assert usd_of(job("l4", Status.CANCELLED, train=-3493)) == 0  # a negative time, as older versions recorded it


def test_an_unknown_price_or_machine_makes_an_unknown_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usd_of(job("gone", train=1)) is None
    newer = job("l4", train=1)
    assert usd_of(newer.model_copy(update={"steps": {**newer.steps, "judge": StepRecord()}})) == usd_of(newer)
    assert usd_of(newer.model_copy(update={"steps": {**newer.steps, "judge": StepRecord(seconds=1)}})) is None
    monkeypatch.setattr(cost, "list_prices", lambda region: {"vcpu": 1.0, "gib": 1.0})
    assert usd_of(job("l4", train=1)) is None
    assert cost.usd_per_second(MACHINES["cpu"]) == 40
    assert cost.usd_per_second(MACHINES["rtx-pro-6000"]) is None


def test_the_price_list_has_date_region_source_and_every_accelerator() -> None:
    prices = json.loads(cost.PRICES.read_text())
    assert re.fullmatch(r"20\d\d-[01]\d", prices["date"])
    assert len(prices["source"]) > 40
    items = {"vcpu", "gib"} | {machine.gpu for machine in MACHINES.values() if machine.gpu}
    assert set(cost.list_prices(cost.DEFAULT_REGION)) == items
    regions = [region for listed in prices["regions"].values() for region in listed.split()]
    assert len(regions) == len(set(regions))
    assert set(prices["usd_per_second"]) <= {*prices["regions"], *regions}


def test_prices_differ_by_region_and_are_unknown_where_the_list_has_none() -> None:
    """Tier 2 costs a fifth more; accelerators are listed for one region."""
    iowa, belgium, seoul, unlisted = (
        Prices(region=region) for region in ("us-central1", "europe-west1", "asia-northeast3", "mars-east1")
    )
    export = iowa.usd_per_second("export")
    assert export is not None
    assert belgium.usd_per_second("export") == export
    assert seoul.usd_per_second("export") == pytest.approx(1.2 * export)
    assert unlisted.usd_per_second("export") is None
    assert iowa.usd_per_second("l4") is not None
    assert [prices.usd_per_second("l4") for prices in (belgium, seoul, unlisted)] == [None, None, None]
    assert Prices({"l4": 1.8}, "europe-west1").usd_per_second("l4") == pytest.approx(0.0005)
    assert seoul.origin == cost.price_list("asia-northeast3")
    trained = job("l4", train=100)
    assert cost.spending(trained, iowa).usd is not None
    assert cost.spending(trained, belgium).usd is None


@pytest.mark.parametrize(
    ("kind", "requested", "message", "hint"),
    [
        (
            "l4",
            True,
            "the price of machine l4 in europe-west1 is not known",
            "use max_hours instead, or a machine whose price is known; or let the operator state it: usd_per_hour in "
            "terraform.tfvars, which sets GEMTUNE_USD_PER_HOUR",
        ),
        (
            "l4",
            False,
            "the price of machine l4 in europe-west1 is not known",
            "use a machine whose price is known; or let the operator state it: usd_per_hour in terraform.tfvars, which "
            "sets GEMTUNE_USD_PER_HOUR",
        ),
        (
            "local",
            True,
            "the price of machine local is not known",
            "use max_hours instead; or state its price per hour when the service starts: "
            "GEMTUNE_USD_PER_HOUR=local=2.50",
        ),
        (
            "local",
            False,
            "the price of machine local is not known",
            "state its price per hour when the service starts: GEMTUNE_USD_PER_HOUR=local=2.50",
        ),
    ],
)
def test_an_unknown_price_is_refused_with_the_region_and_what_helps(
    kind: str, requested: bool, message: str, hint: str
) -> None:
    problem = Prices(region="europe-west1").unknown(kind, requested=requested)
    assert (problem.loc, problem.code) == (("max_cost_usd",), "price_unknown")
    assert (problem.msg, problem.hint) == (message, hint)


def test_machines_without_a_price_are_named_in_order() -> None:
    kinds = ("train", "rtx-pro-6000", "l4", "l4", "prepare", None)
    assert Prices(region="europe-west1").unpriced(kinds) == ["l4", "rtx-pro-6000", "train"]
    assert Prices({"l4": 1.0}, "us-west2").unpriced(("l4", "prepare", "export")) == []


def test_services_use_the_prices_of_their_region() -> None:
    names = ("PROJECT_ID", "GCS_CONFIG_BUCKET_NAME", "GCS_DATA_BUCKET_NAME", "GCS_UPLOADS_BUCKET_NAME")
    gcp = {"GEMTUNE_BACKEND": "gcp", "REGION": "asia-northeast3", "GCS_EXPORT_BUCKET_NAME": "a"}
    services = Services(Settings.from_environment(gcp | dict.fromkeys(names, "a")))
    assert services.prices.region == "asia-northeast3"
    assert services.planner.prices == services.prices
    assert Services(Settings.from_environment({})).prices.region == cost.DEFAULT_REGION


def test_the_page_on_deployment_agrees_with_the_price_list() -> None:
    page = (Path(__file__).parent.parent.parent.parent / "docs" / "deployment.md").read_text()
    an_hour = {name: cost.usd_per_second(machine) for name, machine in {**MACHINES, **CPU_STEPS}.items()}
    for words, price in (
        ("prepare, per hour", an_hour["prepare"]),
        ("train on `l4`, per hour", an_hour["l4"]),
        ("train on `rtx-pro-6000`, per hour", an_hour["rtx-pro-6000"]),
        ("export, per hour", an_hour["export"]),
    ):
        assert price is not None
        assert re.search(rf"\| {re.escape(words)} \| {price * 3600:.2f}[ ;]", page), words
    example = usd_of(job("l4", prepare=120, train=1200, export=180))
    assert f"3 of export | {example:.2f} |" in page
    assert f"{datetime.strptime(json.loads(cost.PRICES.read_text())['date'], '%Y-%m'):%B %Y}" in page


def test_the_status_of_a_job_has_its_cost_once_it_is_over() -> None:
    assert JobStatus.of(job("l4", train=3600), LIST_PRICES).cost_usd == pytest.approx(1.4209, abs=0.01)
    assert JobStatus.of(job("l4", Status.TRAINING, train=3600), LIST_PRICES).cost_usd is None
    assert JobStatus.of(job("local", train=3600), LIST_PRICES).cost_usd is None
    assert JobStatus.of(job("local", train=3600), Prices({"local": 0.4})).cost_usd == 0.4


def test_prices_that_are_stated_replace_those_of_the_list() -> None:
    prices = Prices({"rtx-pro-6000": 3.6, "l4": 0.0})
    assert prices.usd_per_second("rtx-pro-6000") == pytest.approx(0.001)
    assert prices.usd_per_second("l4") == 0
    assert prices.usd_per_second("prepare") == LIST_PRICES.usd_per_second("prepare")
    assert prices.usd_per_second("export-rtx-pro-6000") == pytest.approx(0.001)
    assert Prices({"export-rtx-pro-6000": 7.2, "rtx-pro-6000": 3.6}).usd_per_second(
        "export-rtx-pro-6000"
    ) == pytest.approx(0.002)
    assert LIST_PRICES.usd_per_second("export-rtx-pro-6000") == LIST_PRICES.usd_per_second("rtx-pro-6000")
    assert prices.usd_per_second("local") is None


def test_a_running_attempt_counts_up_to_its_last_heartbeat() -> None:
    running = StepRecord(
        state="running", attempt=2, seconds=100, started_at=NOON, heartbeat_at=NOON + timedelta(seconds=30)
    )
    job_of_two = job("l4").model_copy(update={"steps": {**job("l4").steps, Step.TRAIN: running}})
    price = LIST_PRICES.usd_per_second("l4")
    assert price is not None
    spent = cost.spending(job_of_two, LIST_PRICES)
    assert (spent.seconds, spent.usd) == (130, pytest.approx(130 * price, abs=1e-5))
    assert cost.spending(job_of_two, LIST_PRICES, with_running=False).seconds == 100


def test_prices_say_which_of_them_are_not_the_list_s() -> None:
    assert LIST_PRICES.origin == cost.price_list()
    assert Prices({"l4": 1.0, "cpu": 0.0}).origin == f"{cost.price_list()}; stated: cpu, l4"
