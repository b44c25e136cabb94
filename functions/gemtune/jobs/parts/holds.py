"""Reasons why a job does not run at the moment: it waits, or it is paused."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field

from gemtune.jobs.parts.base import Record

# slot: all machines of the kind are taken. starting: the machine is assigned, and its step has not begun yet. The
# others are the platform's reasons: a quota is used up, there is no free machine, an execution stayed pending for too
# long, a machine was taken away for maintenance. not_deployed: the operator has removed the machine that was chosen.
WaitingReason = Literal["slot", "starting", "quota", "capacity", "pending", "maintenance", "not_deployed"]
# request: a user asked for it. prepare: the request said so (`pause_after`). cost_cap: the job has reached
# `max_cost_usd` or `max_hours`. budget: its owner's budget of the month is spent.
PauseReason = Literal["request", "prepare", "cost_cap", "budget"]
# Place of a job among those that wait for the same machine.
Priority = Literal["low", "normal", "high"]


class Waiting(Record):
    """Wait of a job for a machine."""

    machine: str = Field(description="kind of machine: that of the training, or `prepare` or `export`")
    reason: WaitingReason | str = Field(
        description="`slot`: all machines of the kind are taken; `starting`: the step is about to begin; `quota`, "
        "`capacity`, `pending` (the execution did not begin in time) or `maintenance`: the platform has none now; "
        "`not_deployed`: the service does not have this machine any more"
    )
    position: int = Field(description="place in the queue, from 1; 0 if the job has its slot")
    since: AwareDatetime = Field(description="when the wait began")
    estimated_start: AwareDatetime | None = Field(
        None,
        description="estimated end of the wait by the plans of the jobs that run and of those before it; null if not "
        "known",
    )


class Admission(Record):
    """Permission to run a step, from its slot until the step has ended.

    attempt: number of the step's newest attempt at that time; a higher one shows that the execution has begun.
    cloud_run_job: Cloud Run job that runs the step.
    """

    step: str
    machine: str
    cloud_run_job: str
    attempt: int
    at: AwareDatetime


class Pause(Record):
    """Request to pause a job, or the pause itself if its status is `paused`."""

    reason: PauseReason | str = Field(
        description="`request`: a user asked for it; `prepare`: the request's `pause_after` did; `cost_cap`: the job "
        "has reached `max_cost_usd` or `max_hours`; `budget`: its owner's budget of the month is spent"
    )
    at: AwareDatetime = Field(description="when it was requested")
