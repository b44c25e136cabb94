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

    alone: its rule concerns another variable too, and is skipped if that one is wrong.
    """

    variable: str
    value: str
    message: str
    alone: bool = False


GATEWAY = '{issuer="http://a.example",jwks_uri="https://a.example/k",audience="x"}'
REFUSED = (
    Refused("project_id", "Example_Project", "A project ID has 6 to 30"),
    Refused("region", "us-central1-a", "Zones (us-central1-a)"),
    Refused("firestore_location", "us", "Firestore's location is a region"),
    Refused("images", '{cpu="x/y:latest",cu126="x/y:latest",cu130="x/y:latest"}', "Name an image by its digest"),
    Refused("callers", '["allUsers"]', "make the API public"),
    Refused("publishers", '["me@example.com"]', "Name users, groups, service accounts or domains."),
    Refused("hf_token_secret", "hf_fakefakefake", "This looks like a token."),
    Refused("wandb_key_secret", "0123456789abcdef0123456789abcdef01234567", "This looks like a key."),
    Refused("cpu_steps", "{prepare={cpus=2,memory_gib=64},export={cpus=8,memory_gib=32}}", "at most 4 GiB per CPU"),
    Refused("status_subscriptions", '{googlers={members=["user:a@example.com"]}}', "does not begin with goog"),
    Refused("api_gateway", GATEWAY, "https URLs"),
    Refused("alert_emails", '["me"]', "email addresses"),
    Refused("budget", '{billing_account="mine",amount=1}', "billing_account looks like"),
    Refused("checkpoint_days", "1", "at least 14 days"),
    Refused("gpu_hours_per_day", "0", "Use a number above 0."),
    Refused("limits", "{ max_hours = 0 }", "A limit is a number above 0."),
    Refused("timeout_seconds", "{train=86400}", "at most 12 hours", alone=True),
    Refused("machines", '{x={accelerator="nvidia-x",cpus=8,memory_gib=32}}', "no such machine", alone=True),
    Refused("machines", '{cpu={cpus=8,memory_gib=32,image="none"}}', "does not have", alone=True),
)
