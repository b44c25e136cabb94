"""Values of answers: how they follow from records, and how they are rounded."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gemtune import families
from gemtune.admission.platform import PlatformError
from gemtune.handlers.answers import Account, JobStatus, Models, Spent
from gemtune.handlers.control_api import StepEndedCall
from gemtune.jobs.parts.holds import Admission, Waiting
from gemtune.jobs.parts.plan import Plan, Span
from gemtune.jobs.record import StepRecord
from gemtune.jobs.status import Status, Step
from gemtune.machines.cost import Prices
from gemtune.machines.memory import MemoryNeed
from gemtune.services.budgets.account import AccountPage, Amount, Budget
from gemtune.services.planning.base_models import KnownModel, MethodNeed, ModelAtHand
from gemtune.training_files.loss_history import loss_history
from tests.fakes import World
from tests.unit.jobs.test_job import NOW, new

PRICES = Prices({"local": 12.3456})
PLAN = {
    **dict.fromkeys(Plan.model_fields),
    "machine_reason": "",
    "exact": True,
    "prices": "",
    "steps": {},
    "alternatives": (),
}


def took(**seconds: float) -> dict[Step, StepRecord]:
    return {step: StepRecord(state="done", attempt=1, seconds=seconds.get(step.value, 0)) for step in Step}


def test_what_a_job_took_is_rounded_and_what_is_left_is_never_negative() -> None:
    job = new(machine="local", steps=took(prepare=1.5, train=98.765))
    assert Spent.of(job, PRICES) == Spent(usd=0.3438, hours=0.02785, usd_left=None, hours_left=None)
    capped = job.model_copy(update={"max_cost_usd": 0.5, "max_hours": 0.1})
    assert Spent.of(capped, PRICES) == Spent(usd=0.3438, hours=0.02785, usd_left=0.1562, hours_left=0.07215)
    spent = job.model_copy(update={"max_cost_usd": 0.1, "max_hours": 0.01})
    assert Spent.of(spent, PRICES) == Spent(usd=0.3438, hours=0.02785, usd_left=0, hours_left=0)
    unpriced = Spent.of(capped, Prices())
    assert unpriced == Spent(usd=None, hours=0.02785, usd_left=None, hours_left=0.07215)


@pytest.mark.parametrize(
    ("status", "minutes", "error"),
    [
        (Status.COMPLETED, 1.5, 0.114),
        (Status.COMPLETED, 2.0, -0.164),
        (Status.COMPLETED, 0.0, None),
        (Status.COMPLETED, None, None),
        (Status.FAILED, 1.5, None),
        (Status.TRAINING, 1.5, None),
    ],
)
def test_the_error_of_a_plan_is_that_of_a_completed_job(
    status: Status, minutes: float | None, error: float | None
) -> None:
    span = None if minutes is None else Span(least=0, expected=minutes, most=9)
    plan = Plan.model_validate(PLAN | {"minutes": span})
    job = new(machine="local", status=status, plan=plan, steps=took(prepare=1.5, train=98.765))
    shown = JobStatus.of(job, PRICES)
    assert shown.plan_error == error
    assert shown.cost_usd == (None if status is Status.TRAINING else 0.3438)
    assert JobStatus.of(job.model_copy(update={"plan": None}), PRICES).plan_error is None


def test_a_job_whose_step_has_its_machine_waits_for_its_start() -> None:
    admission = Admission(step="train", machine="l4", cloud_run_job="gemtune-train-l4", attempt=1, at=NOW)
    starting = Waiting(machine="l4", reason="starting", position=0, since=NOW)
    queued = Waiting(machine="l4", reason="slot", position=3, since=NOW)

    def shown(**fields: Any) -> Waiting | None:
        return JobStatus.of(new(**fields), PRICES).waiting

    assert shown() is None
    assert shown(admission=admission, steps={Step.TRAIN: StepRecord(attempt=1)}) == starting
    assert shown(admission=admission, steps={Step.TRAIN: StepRecord(attempt=2)}) is None
    assert shown(admission=admission, waiting=queued) == queued
    assert shown(admission=admission.model_copy(update={"step": "judge"})) is None


def test_an_account_is_rounded_and_has_no_cost_where_a_price_is_unknown(world: World) -> None:
    budgets = world.services.budgets
    object.__setattr__(budgets, "budget", Budget(usd=9, hours=2))
    page = AccountPage().with_job("a", Amount(seconds=100.1, usd=1.234567))
    name = next(iter(_page_names(world)))
    world.services.shared.update(name, lambda body: page.model_dump_json())
    expected = {"owner": "local", "month": "2026-11", "hours": 0.02781, "budget_usd": 9.0, "budget_hours": 2.0}
    assert Account.of("local", budgets).model_dump() == expected | {"usd": 1.2346}
    unpriced = page.with_job("b", Amount(is_priced=False, seconds=0.01))
    world.services.shared.update(name, lambda body: unpriced.model_dump_json())
    assert Account.of("local", budgets).usd is None


def _page_names(world: World) -> set[str]:
    """Return the name of the page of an account with one job."""
    job = new(machine="local", steps=took(prepare=1))
    world.services.budgets.enter(job.model_copy(update={"created_at": world.clock.now() - timedelta(minutes=1)}))
    return set(world.services.shared.names("accounts/"))


def test_models_are_shown_with_their_sizes_and_rounded_needs() -> None:
    family = families.FAMILIES[0]
    name, size = next(iter(family.sizes.items()))
    needs = [MethodNeed("LoRA", MemoryNeed(gpu=1.26, host_with_gpu=9.9, host_without_gpu=3.14), "l4")]
    at_hand = [
        ModelAtHand("me/a", family.name, None, 7, size, needs),
        ModelAtHand("me/b", None, "it is none", 9, None, ()),
    ]
    published = [KnownModel(name, family.name, reads_pictures=True, reads_audio=True, size=size, needs=needs)]
    need = {"method": "LoRA", "machine": "l4", "main_gib": 3.1, "gpu_gib": 1.3}
    of_size = {"parameters": size.parameters, "needs": [need]}
    assert Models.of(at_hand, published, 15.567).model_dump() == {
        "memory_gib": 15.6,
        "at_hand": [
            {"base_model_id": "me/a", "family": family.name, "problem": None, "bytes": 7, **of_size},
            {
                "base_model_id": "me/b",
                "family": None,
                "problem": "it is none",
                "bytes": 9,
                "parameters": None,
                "needs": [],
            },
        ],
        "published": [
            {
                "name": name,
                "family": family.name,
                "reads_pictures": True,
                "reads_audio": True,
                "download_bytes": size.file_bytes,
                **of_size,
            }
        ],
    }
    assert Models.of([], [], None).memory_gib is None


def test_the_loss_curve_has_the_newest_entry_of_each_step_and_evaluations_beside(tmp_path: Path) -> None:
    export = World(tmp_path / "home").services.buckets.export
    folder = "jobs/job_1/metrics"
    export.write(f"{folder}/9.jsonl", b'{"train_step": 1, "loss": 9}\n{"train_step": 2, "loss": 9}\n')
    export.write(f"{folder}/10.jsonl", b'{"train_step": 2, "loss": 10}\n{"train_step": 2, "eval_loss": 10}\n')
    export.write(f"{folder}/notes.txt", b"not an attempt")
    first = {"train_step": 1, "loss": 9}
    second = [{"train_step": 2, "loss": 10}, {"train_step": 2, "eval_loss": 10}]
    assert loss_history(export, "job_1", after=None) == [first, *second]
    assert loss_history(export, "job_1", after=1) == second
    assert loss_history(export, "job_1", after=2) == []
    assert loss_history(export, "job_2", after=None) == []


FAILED = {"job_id": "j", "launch": 1, "execution": "e", "step": "train", "round": 1}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, None),
        ({"error": "lost"}, PlatformError("lost", None, ())),
        ({"error": "lost", "code": 8, "tags": ["HttpError"]}, PlatformError("lost", 8, ("HttpError",))),
        ({"error": "lost", "operation": {"error": {"code": 8}}}, PlatformError("lost", 8, ())),
        ({"error": "lost", "operation": {"error": {"code": 8, "message": "lost"}}}, PlatformError("lost", 8, ())),
        (
            {"error": "lost", "code": 1, "tags": ["a"], "operation": {"error": {"code": 8, "message": "full"}}},
            PlatformError("lost: full", 8, ("a",)),
        ),
    ],
)
def test_the_error_of_an_operation_counts_more_than_that_of_the_call(
    fields: dict[str, Any], error: PlatformError | None
) -> None:
    assert StepEndedCall.model_validate(FAILED | fields).platform_error == error
