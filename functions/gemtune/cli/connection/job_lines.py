"""Parts of a job as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from gemtune.cli.connection import plans
from gemtune.cli.connection.text import local_time
from gemtune.client.references import short_id


def seconds_of(job: dict[str, Any]) -> float:
    """Return the seconds from the acceptance of a finished job to its end."""
    accepted, finished = (datetime.fromisoformat(job[name]) for name in ("created_at", "finished_at"))
    return (finished - accepted).total_seconds()


def format_event(event: dict[str, Any]) -> str:
    """Format an event as one line: number, time, type and details."""
    values = {name: value for name, value in event["details"].items() if value is not None}
    if "warnings" in values:
        values["warnings"] = "; ".join(warning["message"] for warning in values["warnings"])
    if "rows" in values:
        values["rows"] = format_rows(values["rows"])
    if "plan" in values:
        values["plan"] = plans.format_total(values["plan"])
    details = ", ".join(f"{name}: {value}" for name, value in values.items())
    return f"{event['seq']:3}  {local_time(event['at'])}  {event['type']:20} {details}".rstrip()


def format_rows(rows: dict[str, Any]) -> str:
    """Format what became of the rows as `154 trained on, 2 refused, …`.

    Counts of what did not happen are left out.
    """
    formats = {
        "train": "{} trained on",
        "held_out": "{} held out",
        "refused": "{} refused",
        "dropped": "{} dropped as too long",
        "cut": "{} cut",
        "duplicates": "{} duplicates",
        "held_out_duplicates": "{} held out and trained on",
        "trained_tokens": "{} tokens trained per epoch",
    }
    parts = [text.format(rows[name]) for name, text in formats.items() if rows.get(name)]
    if rows.get("fields_not_read"):
        names = ", ".join(f"{field['name']} ({field['rows']})" for field in rows["fields_not_read"])
        parts.append(f"fields not read: {names}")
    if rows.get("files_not_read"):
        parts.append(f"files not read: {', '.join(rows['files_not_read'])}")
    return ", ".join(parts)


def format_evaluations(metrics: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Yield titles and metrics of the trained model and of the base model.

    metrics: of a job; None before its end. Nothing was evaluated without held-out rows.
    """
    for title, each in (("metrics", metrics), ("base model", (metrics or {}).get("baseline"))):
        if each is not None and (values := format_metrics(each)):
            train_step = each.get("train_step")
            yield title, values if train_step is None else f"{values}, after train_step {train_step}"


def format_metrics(metrics: dict[str, Any]) -> str:
    """Format the metrics of an evaluation as `eval_loss 1.2345, …`."""
    from gemtune.jobs.parts.metrics import EvaluationMetrics

    own = {name: metrics.get(name) for name in EvaluationMetrics.model_fields}  # a newer service sends more
    values = EvaluationMetrics.model_validate(own).by_name()
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


def format_waiting(waiting: dict[str, Any]) -> str:
    """Format what a job waits for as `waiting for l4, position 2`.

    The reasons of the platform take the place of the position.
    """
    if waiting["reason"] == "starting":
        return "starting"
    if waiting["reason"] == "not_deployed":
        return f"waiting for {waiting['machine']}, which this service does not have any more"
    details = f"position {waiting['position']}" if waiting["reason"] == "slot" else f"platform: {waiting['reason']}"
    start = (
        ""
        if waiting.get("estimated_start") is None
        else f", starts about {local_time(waiting['estimated_start'])[11:16]}"
    )
    machine = "other jobs" if waiting["machine"] == plans.LOCAL else waiting["machine"]
    return f"waiting for {machine}, {details}{start}"


def format_pause(job: dict[str, Any]) -> str:
    """Format why a job is paused, and the command with which it goes on."""
    options = ""
    if job["pause"]["reason"] == "cost_cap":
        caps = {"max_cost_usd": "--max-cost-usd", "max_hours": "--max-hours"}
        options = "".join(f" {option} MORE" for name, option in caps.items() if job.get(name) is not None)
    when = " next month, or with a larger budget," if job["pause"]["reason"] == "budget" else ""
    return f"{job['pause']['reason']}; go on{when} with: gemtune resume {short_id(job['job_id'])}{options}"


def format_progress(progress: dict[str, Any]) -> str:
    """Format progress as `12/40, loss 1.2345, 830 tokens/s, 35 s left`.

    Parts that are not known are left out.
    """
    parts = [f"{progress['train_step']}/{progress['total_steps']}"]
    formats = {
        "loss": "loss {:.4f}",
        "reward": "reward {:.4f}",
        "margin": "margin {:.4f}",
        "tokens_per_second": "{:.0f} tokens/s",
        "eta_seconds": "{:.0f} s left",
    }
    parts += [text.format(progress[name]) for name, text in formats.items() if progress.get(name) is not None]
    return ", ".join(parts)
