"""Settings: their defaults, and one clear sentence for a wrong one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gemtune.errors import BadSetting
from gemtune.settings import Settings

CLOUD = {
    "GEMTUNE_BACKEND": "gcp",
    "PROJECT_ID": "p",
    "REGION": "r",
    "GCS_CONFIG_BUCKET_NAME": "a",
    "GCS_DATA_BUCKET_NAME": "b",
    "GCS_UPLOADS_BUCKET_NAME": "c",
    "GCS_EXPORT_BUCKET_NAME": "d",
}


def test_a_workstation_needs_no_setting() -> None:
    settings = Settings.from_environment({})
    assert (settings.backend, settings.port, settings.home) == ("embedded", 8080, Path(".gemtune").absolute())
    assert (settings.data_bucket, settings.uploads_bucket) == ("data", "uploads")


def test_settings_come_from_the_environment() -> None:
    settings = Settings.from_environment({"PORT": "9", "GEMTUNE_HOME": "/x y", "GCS_DATA_BUCKET_NAME": "mine"})
    assert (settings.port, settings.home, settings.data_bucket) == (9, Path("/x y"), "mine")


def test_llama_cpp_is_in_the_cache_or_where_the_environment_says() -> None:
    assert Settings.from_environment({"GEMTUNE_CACHE": "/cache"}).llama_cpp == Path("/cache/llama.cpp-0.3.36")
    assert Settings.from_environment({"GEMTUNE_LLAMA_CPP": "/opt/llama"}).llama_cpp == Path("/opt/llama")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "x"),
        ("PORT", "0"),
        ("PORT", "-1"),
        ("PORT", "8²"),
        ("PORT", "9" * 5000),
        ("GEMTUNE_BACKEND", "cloud"),
        ("GCS_DATA_BUCKET_NAME", "../x"),
        ("GCS_DATA_BUCKET_NAME", "a/b"),
        ("GEMTUNE_WEBHOOKS_TO_LOOPBACK", "1"),
        ("GEMTUNE_TRAIN_TIMEOUT_SECONDS", "1h"),
        ("GEMTUNE_UNSLOTH_PYTHON", "/nowhere/python"),
    ],
)
def test_the_error_names_a_wrong_setting(name: str, value: str) -> None:
    with pytest.raises(BadSetting, match=name):
        Settings.from_environment({name: value})


def test_the_python_of_unsloth_must_exist_on_a_workstation_only() -> None:
    assert Settings.from_environment({}).unsloth_python is None
    assert Settings.from_environment({"GEMTUNE_UNSLOTH_PYTHON": sys.executable}).unsloth_python == Path(sys.executable)
    in_image = CLOUD | {"GEMTUNE_UNSLOTH_PYTHON": "/opt/unsloth/bin/python"}
    assert Settings.from_environment(in_image).unsloth_python == Path("/opt/unsloth/bin/python")


def test_the_machines_of_a_deployment_are_read_from_the_environment() -> None:
    assert Settings.from_environment({}).machines == ("local",)
    assert Settings.from_environment(CLOUD).machines == ("l4",)
    both = CLOUD | {"GEMTUNE_MACHINES": "rtx-pro-6000, l4"}
    assert Settings.from_environment(both).machines == ("rtx-pro-6000", "l4")
    for wrong in ("l4,l4", "a100", ","):
        with pytest.raises(BadSetting, match="GEMTUNE_MACHINES"):
            Settings.from_environment(CLOUD | {"GEMTUNE_MACHINES": wrong})


@pytest.mark.parametrize("missing", sorted(set(CLOUD) - {"GEMTUNE_BACKEND"}))
def test_the_cloud_needs_project_region_and_buckets(missing: str) -> None:
    assert Settings.from_environment(CLOUD).region == "r"
    with pytest.raises(BadSetting, match=missing):
        Settings.from_environment({name: value for name, value in CLOUD.items() if name != missing})


def test_the_local_server_refuses_settings_of_the_cloud() -> None:
    from gemtune.bootstrap import services
    from gemtune.cli.group import main

    services.cache_clear()
    result = CliRunner().invoke(main, ["up"], env=CLOUD)
    services.cache_clear()
    assert (result.exit_code, result.stderr.partition(":")[0]) == (1, "bad_setting")


def test_the_command_line_reports_a_wrong_setting_without_a_traceback() -> None:
    from gemtune.bootstrap import services
    from gemtune.cli.group import main

    services.cache_clear()
    result = CliRunner().invoke(main, ["listen", "--once"], env={"PORT": "many"})
    assert (result.exit_code, result.stderr) == (1, "bad_setting: PORT is 'many'; use a positive whole number\n")
