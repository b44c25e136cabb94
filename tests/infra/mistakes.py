"""Mistakes to plant: edits of terraform/, and refused values of variables.

The edits are in mistakes.toml.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mistake:
    """Edit of a file in terraform/: the first `right` becomes `wrong`.

    message: part of the error that must follow.
    """

    name: str
    file: str
    right: str
    wrong: str
    message: str

    def plant(self, folder: Path) -> None:
        """Make the edit. Raises ValueError if the file no longer has `right`."""
        path = folder / self.file
        text = path.read_text()
        if self.right not in text:
            raise ValueError(f"{self.name}: {self.file} has no {self.right!r}")
        path.write_text(text.replace(self.right, self.wrong, 1))


_ALL = tomllib.loads((Path(__file__).parent / "mistakes.toml").read_text())
INVALID = tuple(Mistake(**mistake) for mistake in _ALL["invalid"])
AGAINST_POLICY = tuple(Mistake(**mistake) for mistake in _ALL["against_policy"])
UNWANTED = tuple(Mistake(**mistake) for mistake in _ALL["unwanted"])


@dataclass(frozen=True, slots=True)
class Refused:
    """Value of a variable, in the form of -var, that is refused.

    It is the nearest wrong value where there is one. alone: a rule of the variable concerns another variable too, and
    all its rules are skipped if that one is wrong. with_: another variable and its value, which the rule needs.
    """

    variable: str
    value: str
    message: str
    alone: bool = False
    with_: str = ""


GATEWAY = '{issuer="http://a.example",jwks_uri="https://a.example/k",audience="x"}'
STEPS = "{prepare={cpus=8,memory_gib=33,usd_per_hour=-1}}"
SMALL_EXPORTS = "cpu_steps={prepare={cpus=4,memory_gib=16},export={cpus=4,memory_gib=16}}"
TIMEOUTS = "{prepare=299,train=43201,export=43201}"
MACHINES = '{A={accelerator="nvidia-l4",cpus=8,memory_gib=33,image="none",at_once=0,usd_per_hour=-1}}'
REFUSED = (
    Refused("project_id", "Example_Project", "A project ID has 6 to 30"),
    Refused("region", "us-central1-a", "Zones (us-central1-a)"),
    Refused("firestore_location", "us", "Firestore's location is a region"),
    Refused("images", '{cu126="x/y:latest"}', "Name an image by its digest"),
    Refused("images", '{cu126="x/y:latest"}', "The image `cpu` is missing"),
    Refused("callers", '["allUsers"]', "make the API public"),
    Refused("publishers", '["me@example.com"]', "Name users, groups, service accounts or domains."),
    Refused("uploaders", '["allUsers"]', "Name users, groups, service accounts or domains."),
    Refused("hf_token_secret", "hf_fakefakefake", "This looks like a token."),
    Refused("hf_token_secret", "my token", "This is the secret's name, not its value"),
    Refused("wandb_key_secret", "0123456789abcdef0123456789abcdef01234567", "This looks like a key."),
    Refused("wandb_key_secret", "my key", "This is the secret's name, not its value"),
    Refused("cpu_steps", STEPS, "at most 4 GiB per CPU"),
    Refused("cpu_steps", STEPS, "`usd_per_hour` of a step is a price"),
    Refused("cpu_steps", STEPS, "Set both steps that run on a CPU"),
    Refused("max_instances", "{sweep=0}", "The functions are api, dispatch"),
    Refused("max_instances", "{sweep=0}", "Use whole numbers from 1 to 1000."),
    Refused("status_subscriptions", '{googlers={members=["user:a@example.com"]}}', "does not begin with goog"),
    Refused("api_gateway", GATEWAY, "https URLs"),
    Refused("alert_emails", '["me"]', "email addresses"),
    Refused("budget", '{billing_account="mine",amount=1}', "billing_account looks like"),
    Refused("checkpoint_days", "13", "a running job must find its checkpoint"),
    Refused("model_days", "13", "a running job must find its base model"),
    Refused("gpu_hours_per_day", "0", "Use a number above 0."),
    Refused("failed_jobs_per_hour", "-1", "Use 0 or more."),
    Refused("limits", "{ max_hours = 0 }", "A limit is a number above 0."),
    *(
        Refused("timeout_seconds", TIMEOUTS, message, alone=True, with_=SMALL_EXPORTS)
        for message in (
            "from 300 to 604800",
            "A training with a GPU can take at most 12 hours",
            "An export on a machine with a GPU",
        )
    ),
    *(
        Refused("machines", MACHINES, message, alone=True)
        for message in (
            "At least one machine is needed.",
            "`at_once` of a machine is a whole number",
            "`usd_per_hour` of a machine is a price",
            "no such machine",
            "does not have",
        )
    ),
)
