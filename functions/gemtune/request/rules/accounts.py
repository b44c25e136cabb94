"""Rules about secrets, W&B, and the receiver of webhooks."""

from __future__ import annotations

import re

from gemtune.errors import Problem
from gemtune.jobs.secret_names import REFERENCE
from gemtune.request.facts import Facts
from gemtune.request.spec import SECRET_FIELDS, TrainRequest
from gemtune.secret_name import missing_hint
from gemtune.webhooks import destinations


def secrets(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse references to secrets that do not exist."""
    problems = []
    for role, value in request.secrets().items():
        if role in facts.missing_secrets:
            name = value.removeprefix(REFERENCE)
            message = f"there is no secret {name!r}"
            problems.append(Problem(SECRET_FIELDS[role], message, "secret_not_found", missing_hint(name)))
    return problems


def wandb_project(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse project names that W&B does not allow.

    A project may follow its entity, as in `team/project`.
    """
    project = None if request.wandb_config is None else request.wandb_config.project
    if project is None or re.fullmatch(r"([\w.-]+/)?[^/\\#?%:\x00-\x1f\x7f]+", project):
        return []
    hint = "use letters, digits, '-' and '_'; a team's project is team/project"
    return [Problem(("wandb_config", "project"), "W&B does not allow this name for a project", "bad_form", hint)]


def wandb_key(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse wandb_config if neither the request nor the service has a key."""
    config, needs_key = request.wandb_config, facts.deployment.wandb_needs_key
    if config is None or config.api_key is not None or not needs_key:
        return []
    message = "W&B needs a key, and this service does not have its own"
    return [Problem(("wandb_config", "api_key"), message, "missing_field", "send one, or leave wandb_config out")]


def webhook(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse a webhook_url to which nothing may be sent."""
    url = None if request.notify is None else request.notify.webhook_url
    if url is None:
        return []
    problem = destinations.problem_of(url, to_loopback=facts.deployment.webhooks_to_loopback)
    return [] if problem is None else [problem]
