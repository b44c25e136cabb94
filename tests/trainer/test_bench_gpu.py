"""The benchmark for a GPU, dry-run on a CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.gpu import __main__ as bench_gpu
from bench.gpu import attention, models, processes
from bench.gpu.__main__ import PartFailed
from bench.gpu.processes import Deadline
from gemtune import families
from gemtune.families.size import ModelSize
from gemtune.machines import model_size


def _size(name: str) -> ModelSize:
    size = families.size_by_name(f"google/{models.SHAPES[name].hub_name}")
    assert size is not None
    return size


@pytest.mark.parametrize("name", models.SHAPES)
def test_whole_models_have_the_published_shapes(name: str) -> None:
    size = _size(name)
    config = models.configuration(name, size, size.layers).to_dict() | {"dtype": "bfloat16"}
    built = model_size.of_folder(config, size.file_bytes)
    assert set(built.shapes) == set(size.shapes)
    assert (built.hidden, built.vocabulary, built.experts, built.per_layer_input) == (
        size.hidden,
        size.vocabulary,
        size.experts,
        size.per_layer_input,
    )


@pytest.mark.parametrize("name", models.SHAPES)
def test_layers_are_left_out_until_the_weights_fit(name: str) -> None:
    size, period = _size(name), models.SHAPES[name].period
    limit = 12 * models.GIB
    layers = models.fitting_layers(size, period, limit)
    assert 2 * models.language_parameters(size, layers) <= limit
    assert layers == size.layers or (
        layers % period == 0 and 2 * models.language_parameters(size, layers + period) > limit
    )
    assert models.fitting_layers(size, period, 200 * models.GIB) == size.layers
    with pytest.raises(ValueError, match="layers alone have"):
        models.fitting_layers(size, period, 1000)


def test_estimated_parameters_are_those_of_the_language_model() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    for name in models.SHAPES:
        size = _size(name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(models.configuration(name, size, size.layers))
        counted = sum(weight.numel() for weight in model.parameters())
        assert models.language_parameters(size, size.layers) == pytest.approx(counted, rel=0.02), name


def test_dry_run_compares_with_trl(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    options = ["--dry-run", "--models", "gemma-3-1b", "--methods", "LoRA", "--steps", "4", "--results", str(file)]
    bench_gpu.main(options)
    written = json.loads(file.read_text())
    assert set(written["attention"]) == set(attention.KINDS)
    for measured in written["attention"].values():
        assert measured["row by row"]["ms"] > 0
        assert measured["chosen"]["difference"] == 0
    assert written["versions"]["torch"]
    results = written["models"]["gemma-3-1b"]
    assert results["layers"] == "12 of 26"
    assert results["LoRA"]["gemtune"]["tokens_per_second"] > 0
    ratios = results["LoRA"]["ratios"]["trl"]
    assert ratios["tokens_per_second"] > 0
    assert ratios["max_loss_difference"] < 0.01


def test_without_time_every_part_says_so(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    bench_gpu.main(["--dry-run", "--minutes", "0", "--results", str(file)])
    results = json.loads(file.read_text())
    assert results["models"] == {name: {"failed": "no time was left"} for name in models.SHAPES}
    assert results["attention"] == {"failed": "no time was left"}


def test_a_part_that_takes_too_long_ends_with_its_children_and_keeps_what_it_wrote() -> None:
    program = (
        "import subprocess, sys; print('measured', flush=True); "
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    )
    # The child has the pipe, too: without its end, reading would take 600 seconds.
    ended = processes.run([sys.executable, "-c", program], 1.5)
    assert ended == processes.Ended(None, ended.output, "")
    assert ended.output in ("", "measured\n")  # a busy machine may not even have begun


def test_tests_that_take_too_long_leave_the_results_of_those_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    output = "tests/gpu/test_attention.py::test_a PASSED\n\ntests/gpu/test_rl.py::test_b \n"
    monkeypatch.setattr(processes, "run", lambda *_: processes.Ended(None, output, ""))
    results = bench_gpu._run_tests(Deadline(600))
    assert results["failed"] == "took longer than 180 s"
    assert results["lines"][0] == "tests/gpu/test_attention.py::test_a PASSED"


def test_attention_that_takes_too_long_leaves_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    output = '{"layers": "a", "chosen": {"ms": 1.0}}\na library says something\n{"layers": "b", "cho'
    monkeypatch.setattr(processes, "run", lambda *_: processes.Ended(None, output, ""))
    measured = bench_gpu._measure_attention("cuda", Deadline(600))
    assert measured == {"a": {"chosen": {"ms": 1.0}}, "failed": "took longer than 60 s"}


def test_all_models_are_trained_by_one_method_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little time then costs the second method, and not a model."""
    order: list[tuple[str, str]] = []
    monkeypatch.setattr(bench_gpu, "_measure_attention", lambda *_: {})
    monkeypatch.setattr(bench_gpu, "_measure_model", lambda name, method, *_: order.append((method, name)))
    bench_gpu.main(["--dry-run", "--results", str(tmp_path / "results.json")])
    names = list(models.SHAPES)
    by_qlora = [name for name in names if "QLoRA" in models.SHAPES[name].methods]
    assert order == [*(("LoRA", name) for name in names), *(("QLoRA", name) for name in by_qlora)]


def test_failing_peer_ends_its_own_part_only(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    rows = [{"input_ids": [2, 3], "labels": [2, 3]}] * 8
    with pytest.raises(PartFailed, match="KeyError: 'nobody'"):
        bench_gpu._measure("nobody", "dry", tmp_path, rows, Deadline(600))
