"""Caps, warnings and the account at the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemtune.cli.connection import plans
from gemtune.cli.jobs import train
from gemtune.cli.request.options import request_of
from tests.fakes import request
from tests.unit.cli.test_cli import job_body, run
from tests.unit.conftest import FakeService

JOB = "training_d_m_0123456789ab"
WARNING = {"code": "cap_below_plan", "message": "it takes more", "hint": f"POST /jobs/{JOB}/resume"}


def test_resume_sends_the_caps_that_are_named(service: FakeService) -> None:
    service.answers["POST", f"/jobs/{JOB}/resume"] = (202, {"status": "queued"})
    assert run("resume", JOB, "--max-hours", "2.5", "--max-cost-usd", "4", url=service.url).exit_code == 0
    assert run("resume", JOB, url=service.url).exit_code == 0
    assert [body for _, _, _, body in service.requests] == [{"max_cost_usd": 4.0, "max_hours": 2.5}, {}]


def test_resume_warns_of_caps_below_the_plan_and_of_nothing_else(service: FakeService) -> None:
    other = {"code": "rows_refused", "message": "3 rows", "hint": None}
    service.answers["POST", f"/jobs/{JOB}/resume"] = (202, {"status": "queued", "warnings": [other, WARNING]})
    result = run("resume", JOB, "--max-hours", "2.5", url=service.url)
    assert result.stderr == f"warning: it takes more (`gemtune resume {JOB[-12:]}`)\n"


def test_train_sends_the_caps_that_are_named() -> None:
    body = request_of({"model": "a/b", "max_hours": 2.5, "max_cost_usd": 4.0, "assignments": ()}, {"max_hours": 9})
    assert (body["max_hours"], body["max_cost_usd"]) == (2.5, 4.0)
    assert {"--max-hours", "--max-cost-usd"} <= {name for option in train.params for name in option.opts}


def test_a_refused_resume_says_with_which_option_it_works(service: FakeService) -> None:
    hint = f"raise the cap: POST /jobs/{JOB}/resume with max_cost_usd above 1.5"
    error = {"code": "cap_reached", "message": "it has taken 1.5 USD", "hint": hint}
    service.answers["POST", f"/jobs/{JOB}/resume"] = (409, {"error": error})
    result = run("resume", JOB, url=service.url)
    assert result.exit_code == 1
    assert f"`gemtune resume {JOB[-12:]} --max-cost-usd` above 1.5" in result.stderr


def test_status_shows_what_is_spent_beside_the_caps(service: FakeService) -> None:
    spent = {"usd": 0.1234, "hours": 0.5, "usd_left": None, "hours_left": 1.5}
    body: dict[str, Any] = job_body("training", spent=spent, max_hours=2, max_cost_usd=None)
    service.answers["GET", f"/jobs/{JOB}/status"] = (200, body)
    assert (
        "spent:                30.0 minutes (at most 2 hours), 0.1234 USD\n"
        in run("status", JOB, url=service.url).stdout
    )


@pytest.mark.parametrize(
    ("machine", "cap", "shown"),
    [
        ("l4", None, "30.0 minutes, cost unknown"),
        ("l4", 5, "30.0 minutes, cost unknown (at most 5 USD)"),
        ("local", 5, "30.0 minutes, cost unknown (at most 5 USD)"),
        ("local", None, "30.0 minutes"),
    ],
)
def test_an_unknown_cost_is_said_to_be_unknown(machine: str, cap: float | None, shown: str) -> None:
    spent = {"usd": None, "hours": 0.5, "usd_left": None, "hours_left": None}
    job = {"machine": machine, "spent": spent, "max_hours": None, "max_cost_usd": cap}
    assert plans.format_spent(job) == shown


def test_a_paused_job_says_how_it_goes_on(service: FakeService) -> None:
    pause = {"reason": "cost_cap", "at": "2026-11-24T12:00:00Z"}
    body: dict[str, Any] = job_body("paused", pause=pause, max_hours=2, max_cost_usd=None)
    service.answers["GET", f"/jobs/{JOB}/status"] = (200, body)
    shown = run("status", JOB, url=service.url).stdout
    assert f"since 2026-11-24T12:00:00, cost_cap; go on with: gemtune resume {JOB[-12:]} --max-hours MORE\n" in shown
    service.answers["GET", f"/jobs/{JOB}/status"] = (200, body | {"pause": pause | {"reason": "request"}})
    assert f"request; go on with: gemtune resume {JOB[-12:]}\n" in run("status", JOB, url=service.url).stdout
    service.answers["GET", f"/jobs/{JOB}/status"] = (200, body | {"pause": pause | {"reason": "budget"}})
    shown = run("status", JOB, url=service.url).stdout
    assert f"budget; go on next month, or with a larger budget, with: gemtune resume {JOB[-12:]}\n" in shown
    ends: dict[str, Any] = job_body("cancelled", finished_at="2026-11-24T12:00:00Z")
    service.answers["GET", f"/jobs/{JOB}/status"] = [(200, body), (200, ends)]
    followed = run("watch", JOB, url=service.url)
    assert f"paused cost_cap; go on with: gemtune resume {JOB[-12:]} --max-hours MORE\n" in followed.stderr


def test_warnings_of_a_request_go_to_stderr(service: FakeService, tmp_path: Path) -> None:
    service.answers["POST", "/train"] = (202, {"job_id": JOB, "warnings": [WARNING]})
    file = tmp_path / "r.json"
    file.write_text(json.dumps(request()))
    result = run("train", str(file), url=service.url)
    assert (result.stdout, result.stderr) == (f"{JOB}\n", f"warning: it takes more (`gemtune resume {JOB[-12:]}`)\n")
    assert run("--quiet", "train", str(file), url=service.url).stderr == ""


def test_a_plan_without_a_price_shows_which_one_is_unknown() -> None:
    minutes = {"least": 1, "expected": 2, "most": 3}
    plan = {"machine": "l4", "machine_reason": "x", "memory": None, "exact": True, "train_steps": None, "tokens": None}
    plan |= {"steps": {}, "alternatives": [], "minutes": minutes, "usd": None}
    prices = "2026-10, europe-west1; the price of l4 there is not known, until the operator states usd_per_hour"
    plan["prices"] = prices
    assert list(plans.format_plan(plan))[-1] == f"cost:                 unknown (list prices of {prices})"
    assert plans.format_total(plan) == f"2.0 (1.0 to 3.0) minutes, cost unknown (list prices of {prices})"
    priced = plan | {"usd": {"least": 0.5, "expected": 0.5, "most": 0.5}, "prices": "2026-10, us-central1"}
    assert plans.format_total(priced) == "2.0 (1.0 to 3.0) minutes, 0.50 USD (list prices of 2026-10, us-central1)"


def test_account_shows_the_month_and_the_budget(service: FakeService) -> None:
    body = {"owner": "me", "month": "2026-11", "usd": None, "hours": 1.25, "budget_usd": None, "budget_hours": 10}
    service.answers["GET", "/account"] = (200, body)
    assert run("account", url=service.url).stdout.splitlines() == [
        "owner:                me",
        "month:                2026-11 (UTC)",
        "hours:                1.25 (at most 10 hours)",
        "cost:                 unknown, since a price is",
    ]
    service.answers["GET", "/account"] = (200, body | {"usd": 3.456, "budget_usd": 5})
    assert "cost:                 3.46 USD (at most 5 USD)" in run("account", url=service.url).stdout
