"""Wanted values of metrics, alerts and the dashboard."""

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
STEPS = 'resource.type="cloud_run_job" AND resource.labels.job_name=starts_with("gemtune-")'
SERVICES = f'{FUNCTIONS} AND resource.labels.service_name=starts_with("gemtune-")'
SUBSCRIPTIONS = 'resource.type="pubsub_subscription"'
WORKFLOW = 'resource.type="workflows.googleapis.com/Workflow" AND resource.labels.workflow_id="fine-tune"'
# Charts in their order: metric, what it is of, labels that each have a line, and how values of five minutes become one.
CHARTS = (
    ("run.googleapis.com/job/completed_execution_count", STEPS, ("resource.job_name", "metric.result"), "DELTA"),
    ("run.googleapis.com/job/running_executions", STEPS, ("resource.job_name",), "MAX"),
    ("run.googleapis.com/container/billable_instance_time", STEPS, ("resource.job_name",), "DELTA"),
    ("run.googleapis.com/container/memory/utilizations", STEPS, ("resource.job_name",), "PERCENTILE_99"),
    ("logging.googleapis.com/user/gemtune/failed_jobs", FUNCTIONS, (), "DELTA"),
    ("logging.googleapis.com/user/gemtune/relaunched_jobs", FUNCTIONS, (), "DELTA"),
    *(
        (f"pubsub.googleapis.com/subscription/{metric}", SUBSCRIPTIONS, ("resource.subscription_id",), "MAX")
        for metric in ("num_undelivered_messages", "oldest_unacked_message_age")
    ),
    (
        "run.googleapis.com/request_count",
        SERVICES,
        ("resource.service_name", "metric.response_code_class"),
        "DELTA",
    ),
    ("run.googleapis.com/request_latencies", SERVICES, ("resource.service_name",), "PERCENTILE_95"),
    ("workflows.googleapis.com/finished_execution_count", WORKFLOW, ("metric.status",), "DELTA"),
)
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
        "google_monitoring_dashboard.gemtune": {"dashboard_json": _dashboard()},
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


def _dashboard() -> Values:
    """Return the charts, two side by side, in rows of four units."""
    tiles = []
    for index, (metric, of, labels, aligner) in enumerate(CHARTS):
        aggregation = {
            "alignmentPeriod": "300s",
            "perSeriesAligner": f"ALIGN_{aligner}",
            "crossSeriesReducer": "REDUCE_SUM" if aligner == "DELTA" else "REDUCE_MAX",
            "groupByFields": [label.replace(".", ".label.", 1) for label in labels],
        }
        query = {"timeSeriesFilter": {"filter": f'metric.type="{metric}" AND {of}', "aggregation": aggregation}}
        chart = {"dataSets": [{"plotType": "LINE", "timeSeriesQuery": query}]}
        place = {"xPos": index % 2 * 6, "yPos": index // 2 * 4, "width": 6, "height": 4}
        tiles.append(place | {"widget": {"xyChart": chart}})
    return {"displayName": "gemtune", "mosaicLayout": {"columns": 12, "tiles": tiles}}


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
