"""Files of an export that was downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gemtune.errors import StepError
from trainer.answers.files import of_download
from trainer.answers.runtime import GgufFiles, TransformersFiles


def test_the_files_tell_how_a_downloaded_model_runs(tmp_path: Path) -> None:
    def found(*names: str, modality: Any = "text") -> object:
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        for name in names:
            (folder / name).write_text("{}")
        return of_download(folder, str(tmp_path), tmp_path / "tools", modality=modality)

    assert found("config.json") == TransformersFiles(tmp_path / "config.json", None, tmp_path / "config.json")
    adapter = tmp_path / "adapter_config.json"
    assert found("adapter_config.json", modality="vision") == TransformersFiles(
        tmp_path, adapter, adapter, modality="vision"
    )
    files = found("mmproj-f16.gguf", "model-q8_0.gguf")
    assert isinstance(files, GgufFiles)
    assert files.model.name == "model-q8_0.gguf"


@pytest.mark.parametrize("base", ["/missing/model", "gs://bucket/model"])
def test_a_base_model_that_is_elsewhere_has_to_be_named(tmp_path: Path, base: str) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(StepError) as caught:
        of_download(tmp_path, base, tmp_path, modality="text")
    assert (caught.value.code, "--base-model" in str(caught.value.hint)) == ("base_model_not_found", True)
