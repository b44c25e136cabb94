"""Pages of statuses, steps and events, and of the state machine."""

from __future__ import annotations

from docs.generate.text.markdown import Page, code, codes
from gemtune.jobs.events import EVENT_TYPES, Event
from gemtune.jobs.status import FINAL, MEANINGS, MOVES, STATUS_OF, Status
from gemtune.jobs.steps import FRUITLESS_ATTEMPTS

REJECTED = {
    "type": "`job_rejected`",
    "at": "time",
    "idempotency_key": "that of the message",
    "problems": "list of `loc`, `msg`, `code`, `hint`",
}


def page() -> Page:
    page = Page("Statuses and events", "Every status of a job and every type of event, with meaning and payload.")
    page.heading("Statuses")
    page.table(
        ("status", "meaning", "next"),
        [(code(status), meaning, codes(sorted(MOVES.get(status, ())))) for status, meaning in MEANINGS.items()],
    )
    page.paragraph(
        f"{', '.join(code(status) for status in Status if status in FINAL)} are final. "
        "[The state machine](state-machine.md) has them as a picture."
    )
    page.heading("Steps")
    page.paragraph(
        "`steps` of `GET /jobs/{job_id}/status` has one entry per step. Its `state` is `pending`, `running`, `stopped` "
        "(at a checkpoint, to be resumed), `done` or `failed`. A step that ends "
        f"{FRUITLESS_ATTEMPTS} times in a row without a newer checkpoint fails the job."
    )
    page.table(("step", "status of the job"), [(code(step), code(status)) for step, status in STATUS_OF.items()])
    page.heading("Events")
    page.paragraph(
        "An event is a fact about a job, numbered by `seq` from 1 without gaps. `GET /jobs/{job_id}/events`, the topic "
        "job-status and webhooks carry the same JSON:"
    )
    properties = Event.model_json_schema()["properties"]
    page.table(("field", "meaning"), [(code(name), _meaning_of(name)) for name in properties])
    page.table(
        ("type", "meaning", "`details`"),
        [
            (code(name), kind.meaning, "; ".join(f"{code(key)}: {text}" for key, text in kind.details.items()))
            for name, kind in EVENT_TYPES.items()
        ],
    )
    page.paragraph(
        "**A message that is refused** creates no job, so it has no event. The topic job-status receives this instead:"
    )
    page.table(("field", "value"), [(code(name), text) for name, text in REJECTED.items()])
    return page


def state_machine_page() -> Page:
    page = Page("State machine", "The statuses of a job and all moves between them, as a picture.")
    page.heading("Moves")
    lines = ["stateDiagram-v2", f"    [*] --> {Status.QUEUED}"]
    for status in Status:
        moves = MOVES.get(status, frozenset())
        lines += [f"    {status} --> {to}" for to in Status if to in moves]
    lines += [f"    {status} --> [*]" for status in Status if status in FINAL]
    page.fence("\n".join(lines), "mermaid")
    page.paragraph(
        "This table of moves (`MOVES` in `functions/gemtune/jobs/status.py`) is the only one: no other code changes a "
        f"status. From `{Status.QUEUED}` straight to `{Status.EXPORTING}` goes a job that exports again what another "
        f"one trained. `{Status.UNKNOWN}` stands for any status that only a newer version knows. "
        "[What each status means](statuses-and-events.md#statuses)."
    )
    return page


def _meaning_of(name: str) -> str:
    return {
        "job_id": "the job",
        "seq": "its number",
        "type": "what happened, see below",
        "status": "the job's status after it",
        "at": "when, in UTC",
        "details": "object; what belongs to the type",
    }[name]
