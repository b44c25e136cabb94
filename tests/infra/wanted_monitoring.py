"""Wanted values of metrics and alerts; test_applied.py has the dashboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gemtune.machines.choice import MACHINES

DAY, HOUR = 86_400, 3_600
FUNCTIONS = 'resource.type="cloud_run_revision"'
# name -> functions that write the line, and the line
METRICS = {
    "failed_jobs": ("fan-out|sweep", "^job [a-z0-9_-]+: job_failed$"),
    "relaunched_jobs": ("sweep", "^job [a-z0-9_-]+ is launched again: "),
    "unmended": ("sweep", "^the sweep could not repair "),
}
EMAILS = [f"{name}@example.com" for name in "abcdef"]
CHANNELS = [f"made-up-id-of-{email}" for email in EMAILS]
Values = Mapping[str, Any]


def monitoring(dead_topics: Sequence[str]) -> dict[str, Values]:
    """Return the values of each resource, by address.

    dead_topics: topics of messages that could not be delivered.
    """
    return {
        **{
            f'google_monitoring_notification_channel.email["{email}"]': {
                "type": "email",
                "labels": {"email_address": email},
            }
            for email in EMAILS
        },
        **{
            f'google_logging_metric.gemtune["{name}"]': {
                "name": f"gemtune/{name}",
                "filter": f'{FUNCTIONS}\nresource.labels.service_name=~"^gemtune-({function})$"\n'
                f'jsonPayload.message=~"{line}"\n',
                "metric_descriptor": [{"metric_kind": "DELTA", "value_type": "INT64"}],
            }
            for name, (function, line) in METRICS.items()
        },
        **_alerts(dead_topics),
        "google_monitoring_alert_policy.no_sweep": _no_sweep(),
    }


def _alerts(dead_topics: Sequence[str]) -> dict[str, Values]:
    """Return alerts of what is too high."""
    gpus = "|".join(name for name, machine in sorted(MACHINES.items()) if machine.gpu is not None)
    dead = ", ".join(f'"{topic}"' for topic in dead_topics)
    letters = 'metric.type="pubsub.googleapis.com/subscription/num_undelivered_messages"'
    seconds = 'metric.type="run.googleapis.com/container/billable_instance_time" AND resource.type="cloud_run_job"'
    of_gpus = f'resource.labels.job_name=monitoring.regex.full_match("gemtune-(train|export)-({gpus})")'
    # name -> filter, window, aligner, most that is allowed
    thresholds = {
        "dead_letters": (
            f'{letters} AND resource.type="pubsub_subscription" AND resource.labels.subscription_id=one_of({dead})',
            300,
            "ALIGN_MAX",
            0,
        ),
        "failed_jobs": (_of_metric("failed_jobs"), HOUR, "ALIGN_DELTA", 3),
        "stuck_jobs": (_of_metric("relaunched_jobs"), HOUR, "ALIGN_DELTA", 0),
        "unmended": (_of_metric("unmended"), HOUR, "ALIGN_DELTA", 0),
        "gpu_hours": (f"{seconds} AND {of_gpus}", DAY, "ALIGN_DELTA", 48 * HOUR),
    }
    return {
        f'google_monitoring_alert_policy.gemtune["{name}"]': _policy(
            condition_threshold=[
                {
                    "filter": expression,
                    "comparison": "COMPARISON_GT",
                    "threshold_value": most,
                    "duration": "0s",
                    "aggregations": [_aggregation(window, aligner)],
                    "trigger": [{"count": 1}],
                }
            ]
        )
        for name, (expression, window, aligner, most) in thresholds.items()
    }


def _no_sweep() -> Values:
    """Return the alert of ten missed sweeps."""
    sweeps = f'{FUNCTIONS} AND resource.labels.service_name="gemtune-sweep" AND metric.labels.response_code_class="2xx"'
    return _policy(
        condition_absent=[
            {
                "filter": f'metric.type="run.googleapis.com/request_count" AND {sweeps}',
                "duration": "1800s",
                "aggregations": [_aggregation(300, "ALIGN_DELTA")],
            }
        ]
    )


def _policy(**condition: list[Values]) -> Values:
    return {
        "combiner": "OR",
        "notification_channels": CHANNELS,
        "documentation": [{"mime_type": "text/markdown"}],
        "conditions": [condition],
    }


def _of_metric(name: str) -> str:
    """Return the filter of one of our own metrics."""
    return f'metric.type="logging.googleapis.com/user/gemtune/{name}" AND {FUNCTIONS}'


def _aggregation(window: int, aligner: str) -> Values:
    return {
        "alignment_period": f"{window}s",
        "per_series_aligner": aligner,
        "cross_series_reducer": "REDUCE_SUM",
    }
