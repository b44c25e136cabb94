"""`gemtune models` against a fake service."""

from __future__ import annotations

import json
from typing import Any

from tests.unit.cli.test_cli import run
from tests.unit.conftest import FakeService


def needs(**machines: str | None) -> list[dict[str, Any]]:
    return [
        {"method": method, "machine": machine, "main_gib": 5.2, "gpu_gib": 3.0} for method, machine in machines.items()
    ]


def published(name: str, family: str, machine: str | None) -> dict[str, Any]:
    size = {"parameters": 268_098_176, "download_bytes": 536_196_352, "reads_pictures": False, "reads_audio": False}
    return {"name": name, "family": family, **size, "needs": needs(LoRA=machine, QLoRA=machine, Full=None, RL=machine)}


AT_HAND = [
    {
        "base_model_id": "/m",
        "family": "Gemma 3",
        "problem": None,
        "bytes": 9,
        "parameters": 1,
        "needs": needs(LoRA="l"),
    },
    {"base_model_id": "/x", "family": None, "problem": "it is a llama", "bytes": 9, "parameters": None, "needs": []},
]
SMALL, LARGE = published("gemma-3-270m", "Gemma 3", "local"), published("gemma-4-31b", "Gemma 4", None)


def test_models_are_listed_with_the_memory_they_need(service: FakeService) -> None:
    answer = {"memory_gib": 15.4, "at_hand": AT_HAND, "published": [SMALL, LARGE]}
    service.answers["GET", "/models"] = (200, answer)
    lines = run("models", url=service.url, COLUMNS="100").stdout.splitlines()
    assert lines[:5] == [
        "At hand, for --model:",
        "  /m",
        "    Gemma 3, 0.0 GB, fits with LoRA",
        "  /x",
        "    cannot be trained: it is a llama",
    ]
    assert "15.4 GiB" in lines[6]
    assert [line.split()[0] for line in lines[7:]] == ["name", "gemma-4-31b", "gemma-3-270m"]
    assert lines[9].split() == [
        "gemma-3-270m",
        "0.27",
        "B",
        "5",
        "GiB",
        "5",
        "GiB",
        "(5",
        "GiB)",
        "0.5",
        "GB",
        "no",
        "no",
    ]
    assert json.loads(run("models", "--json", url=service.url).stdout) == answer


def test_a_narrow_terminal_shows_the_columns_that_matter(service: FakeService) -> None:
    service.answers["GET", "/models"] = (200, {"memory_gib": 15.4, "at_hand": AT_HAND, "published": [SMALL, LARGE]})
    result = run("models", url=service.url, COLUMNS="60")
    assert max(map(len, result.stdout.splitlines())) <= 60
    assert "GB" not in result.stdout.split("Published")[1]


def test_on_google_cloud_the_machine_is_named(service: FakeService) -> None:
    service.answers["GET", "/models"] = (200, {"memory_gib": None, "at_hand": [], "published": [SMALL]})
    lines = run("models", url=service.url).stdout.splitlines()
    assert lines[0] == "At hand: none"
    assert lines[-1].split()[3:6] == ["local", "local", "none"]


def test_models_are_chosen_by_family_and_by_what_fits(service: FakeService) -> None:
    service.answers["GET", "/models"] = (200, {"memory_gib": 15.4, "at_hand": AT_HAND, "published": [SMALL, LARGE]})
    unknown = run("models", "--family", "llama", url=service.url)
    assert (unknown.exit_code, "there are: Gemma 3, Gemma 4" in unknown.stderr) == (2, True)
    for options in (["--family", "gemma 3"], ["--family", "Gemma-3"], ["--family", "gemma3"], ["--fits"]):
        listed = json.loads(run("models", *options, "--json", url=service.url).stdout)
        assert [model["name"] for model in listed["published"]] == ["gemma-3-270m"]
        assert [model["base_model_id"] for model in listed["at_hand"]] == ["/m"]
