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

    It is the nearest wrong value where there is one. message: part of the error; "" for a value that is accepted, the
    nearest right one. alone: a rule of the variable concerns another variable too, and all its rules are skipped if
    that one is wrong. with_: another variable and its value, which the rule needs.
    """

    variable: str
    value: str
    message: str
    alone: bool = False
    with_: str = ""


def _machine(message: str, **attributes: object) -> Refused:
    """Return the smallest machine with an L4 but for these attributes."""
    machine = {"accelerator": '"nvidia-l4"', "cpus": 4, "memory_gib": 16, "image": '"cu126"'} | attributes
    name = machine.pop("name", "m")
    body = ",".join(f"{key}={value}" for key, value in machine.items())
    return Refused("machines", f"{{{name}={{{body}}}}}", message, alone=True)


def _steps(message: str, cpus: float, memory_gib: float, usd: float = 0) -> Refused:
    step = f"{{cpus={cpus},memory_gib={memory_gib},usd_per_hour={usd}}}"
    return Refused("cpu_steps", f"{{prepare={step},export={{cpus=8,memory_gib=32}}}}", message)


def _gateway(message: str, issuer: str = "https://a", jwks_uri: str = "https://a/k", audience: str = "x") -> Refused:
    return Refused("api_gateway", f'{{issuer="{issuer}",jwks_uri="{jwks_uri}",audience="{audience}"}}', message)


def _each(variable: str, message: str, *values: str) -> tuple[Refused, ...]:
    return tuple(Refused(variable, value, message) for value in values)


CPU, RTX = {"accelerator": "null", "image": '"cpu"'}, {"accelerator": '"nvidia-rtx-pro-6000"'}
SMALL_EXPORTS = "cpu_steps={prepare={cpus=4,memory_gib=16},export={cpus=4,memory_gib=16}}"
CPU_ONLY = 'machines={m={cpus=8,memory_gib=32,image="cpu"}}'
NO_MACHINE, NO_STEP, MEMBERS = (
    "Cloud Run has no such machine",
    "at most 4 GiB per CPU",
    "Name users, groups, service accounts",
)
HF_TOKEN, HF_NAME = "This looks like a token.", "This is the secret's name, not its value"
SUBSCRIPTION = "A subscription's name has 3 to 61"
IMAGE = "x/y@sha256:" + 64 * "0"
# Every clause of a rule has a value that it alone refuses.
REFUSED = (
    *_each("project_id", "A project ID has 6 to 30", "exam_ple", "Example", "fives", 31 * "a", "1example", "example-"),
    *_each("region", "Zones (us-central1-a)", "us-central1-a", "us", "central1", "us-central", "1us-central1"),
    *_each("firestore_location", "Firestore's location is a region", "us", "us-central1-a", "_nam5"),
    *_each(
        "images",
        "Name an image by its digest",
        *(f'{{cpu="{image}"}}' for image in ("x/y:latest", IMAGE[:-1], f"{IMAGE}0", f"https://{IMAGE}")),
    ),
    Refused("images", f'{{cu126="{IMAGE}"}}', "The image `cpu` is missing"),
    *_each(
        "callers",
        "make the API public",
        '["allUsers"]',
        '["allAuthenticatedUsers"]',
        '["user:"]',
        '["a user:b"]',
        '["me@example.com"]',
    ),
    *_each("publishers", MEMBERS, '["me@example.com"]', '["a user:b"]', '["allUsers"]', '["user:"]'),
    *_each("uploaders", MEMBERS, '["a user:b"]', '["allUsers"]', '["allAuthenticatedUsers"]', '["user:"]'),
    *_each("hf_token_secret", HF_TOKEN, "hf_abcdef"),
    *_each("hf_token_secret", HF_NAME, "my token", "", 256 * "a"),
    *_each("wandb_key_secret", "This looks like a key.", 40 * "a", "wandb_" + 16 * "a"),
    *_each("wandb_key_secret", HF_NAME, "my key", "", 256 * "a"),
    _steps(NO_STEP, 3, 8),
    _steps(NO_STEP, 8, 33),
    _steps(NO_STEP, 4, 17),
    _steps("`usd_per_hour` of a step is a price", 4, 16, -0.01),
    Refused("cpu_steps", "{prepare={cpus=4,memory_gib=16}}", "Set both steps that run on a CPU"),
    Refused("max_instances", "{sweep=1}", "The functions are api, dispatch"),
    *_each("max_instances", "Use whole numbers from 1 to 1000.", "{api=0}", "{api=1001}", "{api=1.5}"),
    *_each(
        "status_subscriptions",
        SUBSCRIPTION,
        *(f"{{{name}={{members=[]}}}}" for name in ("ab", 62 * "a", "goog", "Abc")),
    ),
    *(_gateway("https URLs", issuer=url) for url in ("http://a", "a https://a")),
    *(_gateway("https URLs", jwks_uri=url) for url in ("http://a/k", "a https://a/k")),
    _gateway("https URLs", audience=""),
    *_each("alert_emails", "email addresses", '["me"]', '["me@"]', '["@a"]', '["me@a@b"]', '["m e@a"]'),
    *_each(
        "budget",
        "billing_account looks like",
        *(
            f'{{billing_account="{account}",amount={amount}}}'
            for account, amount in (
                ("012345-6789AB-CDEF0", 1),
                ("012345-6789AB-CDEF012", 1),
                ("0123456-789ABC-CDEF01", 1),
                ("012345-6789ABC-CDEF01", 1),
                ("012345-6789ab-CDEF01", 1),
                ("012345-6789AB-CDEF01", 0),
                ("012345-6789AB-CDEF01", 1.5),
                ("", 1),
            )
        ),
    ),
    Refused("checkpoint_days", "13", "a running job must find its checkpoint"),
    Refused("model_days", "13", "a running job must find its base model"),
    Refused("gpu_hours_per_day", "0", "Use a number above 0."),
    Refused("failed_jobs_per_hour", "-1", "Use 0 or more."),
    Refused("limits", "{max_hours=0}", "A limit is a number above 0."),
    *(
        Refused("timeout_seconds", value, message, alone=True, with_=with_)
        for value, message, with_ in (
            *((f"{{prepare={seconds}}}", "from 300 to 604800", "") for seconds in (299, 604801, 300.5)),
            ("{train=43201}", "A training with a GPU can take at most 12 hours", ""),
            ("{export=43201}", "An export on a machine with a GPU", SMALL_EXPORTS),
        )
    ),
    Refused("machines", "{}", "At least one machine is needed.", alone=True),
    *(_machine("At least one machine is needed.", name=name) for name in ("A", 32 * "a", '"1a"', "a_b")),
    *(_machine("`at_once` of a machine is a whole number", at_once=number) for number in (0, 1.5)),
    _machine("`usd_per_hour` of a machine is a price", usd_per_hour=-0.01),
    _machine("does not have", image='"none"'),
    _machine(NO_MACHINE, accelerator='"nvidia-t4"'),
    *(_machine(NO_MACHINE, **size) for size in ({"cpus": 3}, {"cpus": 9}, {"memory_gib": 15}, {"memory_gib": 33})),
    *(_machine(NO_MACHINE, **RTX, cpus=cpus, memory_gib=memory) for cpus, memory in ((19, 80), (20, 79))),
    *(
        _machine(NO_MACHINE, **CPU, cpus=cpus, memory_gib=memory)
        for cpus, memory in ((3, 8), (8, 33), (2, 9), (10, 32))
    ),
)
# Values at the bounds of the rules.
ACCEPTED = (
    *_each("project_id", "", "sixsix", 30 * "a", "a-1234"),
    *_each("region", "", "us-central1", "northamerica-northeast12"),
    *_each("firestore_location", "", "nam5", "eur3", "us-east1"),
    Refused("images", f'{{cpu="{IMAGE}",cu126="europe-west1-docker.pkg.dev/a-b/c.d_e/f@sha256:{64 * "f"}"}}', ""),
    *(
        Refused(name, f'["{member}:a"]', "")
        for name in ("callers", "publishers", "uploaders")
        for member in ("user", "group", "serviceAccount", "domain", "principal", "principalSet")
    ),
    *_each("hf_token_secret", "", "hf_abcde", "a_hf_abcdef", "hf_abcdef-1", 255 * "a", "a"),
    *_each("wandb_key_secret", "", 39 * "a", 41 * "a", "wandb_" + 15 * "a", 255 * "_", "a"),
    *(_steps("", cpus, cpus * 4) for cpus in (1, 2, 4, 6, 8)),
    *_each("max_instances", "", "{api=1}", "{notify=1000}", "{dispatch=1,ingest=1,fan-out=1,control=1}"),
    *_each("status_subscriptions", "", *(f"{{{name}={{members=[]}}}}" for name in ("abc", 61 * "a", "a-1", "goo"))),
    _gateway(""),
    *_each("alert_emails", "", '["a@b"]'),
    *_each("budget", "", '{billing_account="012345-6789AB-CDEF01",amount=1}'),
    Refused("checkpoint_days", "14", ""),
    Refused("model_days", "14", ""),
    Refused("gpu_hours_per_day", "0.1", ""),
    Refused("failed_jobs_per_hour", "0", ""),
    Refused("limits", "{max_hours=0.1,max_cost_usd=0.1}", ""),
    Refused("timeout_seconds", "{prepare=604800,train=43200,export=43200}", "", alone=True),
    Refused("timeout_seconds", "{prepare=300,train=300,export=300}", "", alone=True),
    Refused("timeout_seconds", "{train=43201}", "", alone=True, with_=CPU_ONLY),
    Refused("timeout_seconds", "{export=43201}", "", alone=True),
    Refused("timeout_seconds", "{export=43200}", "", alone=True, with_=SMALL_EXPORTS),
    *(_machine("", name=name) for name in ("a", 31 * "a", "a-1")),
    _machine("", cpus=8, memory_gib=32, at_once=1, usd_per_hour=0),
    _machine("", **RTX, cpus=20, memory_gib=80),
    *(_machine("", **CPU, cpus=cpus, memory_gib=cpus * 4) for cpus in (1, 8)),
)
