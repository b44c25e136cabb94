"""Submission on a workstation: local folders and the storage of tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemtune.errors import RequestRefused
from tests.fakes import World


@pytest.mark.parametrize(
    ("config", "code"),
    [('{"model_type": "llama"}', "not_a_gemma"), ("{", "bad_base_model"), ("[]", "bad_base_model")],
)
def test_a_folder_without_a_gemma_is_refused(world: World, tmp_path: Path, config: str, code: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(RequestRefused) as caught:
        world.submit(training={"base_model_id": str(tmp_path)})
    assert [problem.code for problem in caught.value.problems] == [code]


def test_only_the_file_of_the_secret_contains_the_token(world: World) -> None:
    world.submit(hf_token="hf_fakefakefake")
    world.services.database.close()
    home = world.services.settings.home
    holding = [p for p in home.rglob("*") if p.is_file() and b"hf_fakefakefake" in p.read_bytes()]
    assert [path.parent.name for path in holding] == ["secrets"]
