"""Times and amounts of the services, written down a second time on purpose.

No behaviour says whether an orphan is an hour old or two, but operators and users rely on it. So whoever changes one of
these changes it here, too. Their effect is tested where they are used.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from gemtune.machines import choice
from gemtune.services import control, dispatch, ingest, machine_slots, sweep
from gemtune.services.budgets import account, ledger
from gemtune.services.cleanup import leftovers, order
from gemtune.services.control import Intervals
from gemtune.services.datasets import catalogue, listing, rows
from gemtune.services.planning import dataset_amounts, measured_speeds, planner

AMOUNTS: dict[Any, dict[str, Any]] = {
    account: {"JOBS_KEPT": 4000},
    ledger: {"PAGES": 8, "MONTHS_KEPT": 12},
    control: {
        "CRASH_WAITS": (10, 60),
        "MARGIN_SECONDS": 120,
        "FOR_SLOTS": Intervals(10, 300),
        "FOR_SLOTS_ON_WORKSTATION": Intervals(0.5, 5),
        "FOR_PLATFORM": Intervals(30, 600),
    },
    catalogue: {"SHOWN_FILES": 200},
    listing: {"MAX_LISTED": 3000},
    rows: {"PAGE_BYTES": 1048576},
    leftovers: {
        "TOMBSTONE": timedelta(days=30),
        "LATE_WRITES": timedelta(days=2),
        "ORPHAN_AGE": timedelta(hours=1),
        "UPLOAD_AGE": timedelta(days=7),
        "CHECK_AGE": timedelta(days=7),
    },
    order: {"SWEEP_SECONDS": 180, "CHECKED_PER_SWEEP": 200},
    dispatch: {"LEASE": timedelta(minutes=3)},
    ingest: {"WORDS_OF_REQUESTS": (b"training_config", b"processed_dataset_id")},
    machine_slots: {
        "GRACE": timedelta(minutes=1),
        "SILENCE": timedelta(minutes=30),
        "LONGEST_ESTIMATE": 315360000.0,
    },
    dataset_amounts: {"DENSE": 1.5, "USUAL": 4.0, "SPARSE": 9.0, "SAMPLE": 262144},
    measured_speeds: {"KINDS_KEPT": 200},
    planner: {"PREPARE_PER_TOKEN": 0.00001},
    choice: {
        "SMALLER_MODELS": (
            "google/gemma-3-27b-it",
            "google/gemma-3-12b-it",
            "google/gemma-3-4b-it",
            "google/gemma-3-1b-it",
            "google/gemma-3-270m-it",
        ),
    },
    sweep: {
        "PUBLISH_GRACE": timedelta(minutes=1),
        "SECRET_RENEWAL": timedelta(days=1),
        "REPAIR_SECONDS": 240.0,
        "PART_SECONDS": 18.0,
        "SWEEP_LIMIT": 430.0,
    },
}


@pytest.mark.parametrize(
    "module", AMOUNTS, ids=lambda module: module.__name__.removeprefix("gemtune.").removeprefix("services.")
)
def test_times_and_amounts_are_those_that_were_chosen(module: Any) -> None:
    assert {name: getattr(module, name) for name in AMOUNTS[module]} == AMOUNTS[module]


@pytest.mark.parametrize("part", [account.Amount(), account.AccountPage()], ids=lambda part: type(part).__name__)
def test_an_account_is_changed_by_copies_only(part: account.Amount | account.AccountPage) -> None:
    for name in type(part).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, None)
    assert account.AccountPage().total == account.Amount(seconds=0, usd=0, is_priced=True)
