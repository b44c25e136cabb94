"""Train and export on a tiny model: learning, resuming, stopping and metrics."""

from __future__ import annotations

import itertools
import json
import shutil
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemtune.clock import SystemClock
from gemtune.errors import StaleAttempt, StaleClaim, StepError
from gemtune.jobs.status import Step
from tests.trainer.conftest import Bench
from tests.trainer.training.test_metrics import reference_metrics
from trainer.rows.encoded import Encoded
from trainer.rows.prepared import read_tokens
from trainer.steps import train
from trainer.store import checkpoints, manifest


def adapter(bench: Bench, attempt: int = 1) -> dict[str, torch.Tensor]:
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/{attempt}"))
    return load_file(folder / "adapter_model.safetensors")


def resumes_to_the_bit(uninterrupted: Bench, interrupted: Bench, *, stop_at: int) -> None:
    """Train two prepared jobs, one with a stop, and compare their results."""
    uninterrupted.run(Step.TRAIN)
    interrupted.run(Step.TRAIN, should_stop=after_steps(stop_at))
    interrupted.run(Step.TRAIN)
    assert interrupted.curve() == uninterrupted.curve()
    expected, resumed = adapter(uninterrupted), adapter(interrupted, attempt=2)
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def after_steps(count: int) -> Callable[[], bool]:
    """Return a should_stop that acts as a SIGTERM in the n-th train_step.

    It is true from then on. Loading and evaluations ask it, too, which does not count.
    """
    train_steps: list[int] = []

    def should_stop() -> bool:
        if any(frame.f_code.co_name == "_must_stop" for frame, _ in traceback.walk_stack(None)):
            train_steps.append(1)
        return len(train_steps) >= count

    return should_stop


def test_a_training_learns_and_its_metrics_match_the_exported_adapter(bench: Bench) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    bench.training["max_steps"] = 30
    bench.to(Step.EXPORT)
    job = bench.job
    assert job.status == "completed"
    assert job.adapter_path is not None
    base = AutoModelForCausalLM.from_pretrained(bench.base)
    plain = {name: weight.clone() for name, weight in base.named_parameters()}
    model = PeftModel.from_pretrained(base, job.adapter_path).eval()

    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    held_out = [Encoded(r["input_ids"], r["labels"], len(r["input_ids"])) for r in read_tokens(folder / "eval.parquet")]
    loss, accuracy, perplexity = reference_metrics(model, held_out)
    assert job.metrics is not None
    assert job.metrics.eval_loss == pytest.approx(loss, rel=1e-4)
    assert job.metrics.accuracy == pytest.approx(accuracy, abs=1e-9)
    assert job.metrics.perplexity == pytest.approx(perplexity, rel=1e-3)
    with model.disable_adapter():
        before = reference_metrics(model, held_out)
    assert job.metrics.baseline is not None
    assert job.metrics.baseline.eval_loss == pytest.approx(before[0], rel=1e-4)
    assert loss < before[0] - 0.3
    assert accuracy > before[1] + 0.3

    merged = {n.replace("base_model.model.", "").replace(".base_layer", ""): w for n, w in model.named_parameters()}
    assert all(torch.equal(weight, merged[name]) for name, weight in plain.items())
    trained = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in merged if ".lora_" in name}
    assert trained == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    turn = [{"role": "user", "content": "Hi"}]
    tokenizer = AutoTokenizer.from_pretrained(job.adapter_path)
    assert "<start_of_turn>model" in tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)


def test_the_export_carries_a_card_and_checksums(bench: Bench) -> None:
    bench.to(Step.EXPORT)
    folder = Path(bench.job.adapter_path or "")
    card = (folder / "README.md").read_text()
    for text in (str(bench.base), "`chats`", bench.job_id, "| learning_rate | 0.005 |", "perplexity"):
        assert text in card
    for package in ("transformers", "bitsandbytes"):
        assert f"| {package} | {version(package)} | {version(package)} |" in card
    assert f"trained by gemtune as job `{bench.job_id}` and exported on" in card
    assert "None" not in card
    assert '| evaluation_metrics | ["accuracy", "perplexity"] |' in card
    assert {artifact.name for artifact in bench.job.artifacts} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "certificate.json",
        "certificate.md",
        "chat_template.jinja",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    }
    for artifact in bench.job.artifacts:
        assert manifest.sha256(folder / artifact.name) == artifact.sha256
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (str(bench.base), 16)


def test_an_adapter_has_the_chat_template_it_was_trained_with(bench: Bench, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base = Path(shutil.copytree(bench.base, tmp_path / "older"))
    template = (base / "chat_template.jinja").read_text().replace("<start_of_turn>", "<start_of_turn> ")
    (base / "chat_template.jinja").unlink()
    (base / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    bench.training["base_model_id"] = str(base)
    bench.to(Step.EXPORT)
    tokenizer = AutoTokenizer.from_pretrained(bench.job.adapter_path)
    turn = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(turn, tokenize=False).startswith("<bos><start_of_turn> user\nHi")


def test_the_same_request_gives_the_same_weights(
    bench_of: Callable[..., Bench], trained_once: Callable[..., Bench]
) -> None:
    first, second = adapter(trained_once()), adapter(bench_of().to(Step.TRAIN))
    other = adapter(bench_of(seed=1).to(Step.TRAIN))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("stopped_at", [1, 4, 7])
def test_a_resumed_training_ends_with_the_same_weights(
    bench_of: Callable[..., Bench], trained_once: Callable[..., Bench], stopped_at: int
) -> None:
    training = {"lora_dropout": 0.1, "eval_strategy": "steps", "eval_steps": 3, "epochs": 2, "batch_size": 3}
    uninterrupted = trained_once(**training)
    interrupted = bench_of(**training).to(Step.PREPARE)
    interrupted.run(Step.TRAIN, should_stop=after_steps(stopped_at))
    step = interrupted.job.steps[Step.TRAIN]
    assert (step.state, step.cause, step.checkpoint) == ("stopped", "sigterm", stopped_at)
    interrupted.run(Step.TRAIN)
    assert interrupted.curve() == uninterrupted.curve()
    before, after = adapter(uninterrupted), adapter(interrupted, attempt=2)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert interrupted.job.metrics == uninterrupted.job.metrics


def test_a_killed_training_loses_at_most_one_save_interval(bench: Bench) -> None:
    bench.run(Step.PREPARE)

    class Killed(BaseException):
        pass

    is_time = after_steps(5)

    def kill() -> bool:
        if is_time():
            raise Killed
        return False

    with pytest.raises(Killed):
        bench.run(Step.TRAIN, should_stop=kill)
    assert bench.job.steps[Step.TRAIN].checkpoint == 3
    bench.run(Step.TRAIN)
    resumed = bench.services.buckets.export.read(f"jobs/{bench.job_id}/metrics/2.jsonl").decode().splitlines()
    assert json.loads(resumed[0])["train_step"] == 4
    assert bench.job.steps[Step.TRAIN].state == "done"


def test_a_broken_checkpoint_is_skipped(bench: Bench) -> None:
    bench.run(Step.PREPARE)
    bench.run(Step.TRAIN, should_stop=after_steps(7))
    export, prefix = bench.services.buckets.export, f"jobs/{bench.job_id}"
    newest, older = checkpoints.list_all(export, prefix)
    assert (newest.train_step, older.train_step) == (7, 6)
    export.write(f"{newest.prefix}/adapter_model.safetensors", b"x")
    bench.run(Step.TRAIN)
    resumed = export.read(f"{prefix}/metrics/2.jsonl").decode().splitlines()
    assert json.loads(resumed[0])["train_step"] == 7


def test_a_training_stops_itself_before_its_deadline(bench: Bench) -> None:
    bench.run(Step.PREPARE)
    bench.run(Step.TRAIN, deadline=SystemClock().monotonic())
    step = bench.job.steps[Step.TRAIN]
    assert (step.state, step.cause, step.checkpoint) == ("stopped", "out_of_time", 1)


def test_checkpoints_are_deleted_once_the_adapter_is_published(trained_once: Callable[..., Bench]) -> None:
    bench = trained_once()
    assert checkpoints.list_all(bench.services.buckets.export, f"jobs/{bench.job_id}") == []


def test_the_duration_of_evaluations_is_kept_for_later_attempts(trained_once: Callable[..., Bench]) -> None:
    bench = trained_once()
    assert float(bench.services.buckets.export.read(f"jobs/{bench.job_id}/metrics/evaluation_seconds")) > 0


def test_an_outdated_attempt_stops_and_writes_nothing(bench: Bench) -> None:
    bench.run(Step.PREPARE)
    context = bench.context(Step.TRAIN)
    bench.another_attempt(context)
    before = [stat.name for stat in bench.services.buckets.export.list("")]
    with pytest.raises(StaleAttempt):
        train.run(context)
    after = {stat.name for stat in bench.services.buckets.export.list("")} - set(before)
    assert {name.rpartition("/")[2] for name in after} <= {"baseline.json", "evaluation_seconds", "1.jsonl"}


def test_a_training_of_a_cancelled_job_stops_without_a_checkpoint(bench: Bench) -> None:
    bench.run(Step.PREPARE)
    context = bench.context(Step.TRAIN, should_stop=after_steps(2))
    bench.services.cancel(bench.job_id)
    with pytest.raises(StaleClaim):
        train.run(context)
    assert checkpoints.list_all(bench.services.buckets.export, f"jobs/{bench.job_id}") == []


def test_a_nan_loss_fails_with_a_hint(bench: Bench) -> None:
    weights = load_file(bench.base / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    broken = bench.services.settings.home / "broken"
    shutil.copytree(bench.base, broken)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    bench.training["base_model_id"] = str(broken)
    bench.services.buckets.data.delete("processed_datasets/chats/eval.jsonl")
    bench.run(Step.PREPARE)
    with pytest.raises(StepError) as caught:
        bench.run(Step.TRAIN)
    assert (caught.value.code, caught.value.hint is not None) == ("loss_not_finite", True)


def break_forward_passes(monkeypatch: pytest.MonkeyPatch, *, from_call: int) -> None:
    """Make the forward passes of a run raise from the n-th call on."""
    from trainer.training import sft

    calls = itertools.count(1)
    compute_loss = sft.SftTrainer.compute_loss

    def failing(trainer: sft.SftTrainer, *arguments: Any, **options: Any) -> Any:
        if next(calls) >= from_call:
            raise RuntimeError("the size of tensor a (256) must match the size of tensor b (512)")
        return compute_loss(trainer, *arguments, **options)

    monkeypatch.setattr(sft.SftTrainer, "compute_loss", failing)


def test_a_model_that_fails_in_its_first_forward_pass_is_refused_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.to(Step.PREPARE)
    break_forward_passes(monkeypatch, from_call=1)
    with pytest.raises(StepError, match=r"must match the size of tensor b") as refused:
        train.run(bench.context(Step.TRAIN))
    assert refused.value.code == "model_not_supported"


def test_an_error_after_the_first_train_step_can_be_retried(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.to(Step.PREPARE)
    break_forward_passes(monkeypatch, from_call=3)
    with pytest.raises(RuntimeError, match=r"must match the size of tensor b"):
        train.run(bench.context(Step.TRAIN))


def test_evaluations_run_at_the_requested_train_steps(bench_of: Callable[..., Bench]) -> None:
    def evaluated(**training: Any) -> list[int]:
        from gemtune.training_files.loss_history import loss_history

        bench = bench_of(**training).to(Step.TRAIN)
        history = loss_history(bench.services.buckets.export, bench.job_id, after=0)
        return [entry["train_step"] for entry in history if "eval_loss" in entry]

    assert evaluated(eval_strategy="no") == [8]
    assert evaluated(eval_strategy="steps", eval_steps=3) == [3, 6, 8]
    assert evaluated(eval_strategy="epoch", batch_size=8) == [3, 6, 8]


def test_both_ways_to_collect_metrics_agree_and_give_only_the_requested_ones(bench_of: Callable[..., Bench]) -> None:
    first = bench_of(batch_eval_metrics=True).to(Step.TRAIN).job.metrics
    second = bench_of(batch_eval_metrics=False).to(Step.TRAIN).job.metrics
    assert first == second
    only = bench_of(evaluation_metrics=["accuracy"]).to(Step.TRAIN).job.metrics
    assert only is not None
    assert first is not None
    assert (only.accuracy, only.perplexity) == (first.accuracy, None)


def test_the_record_has_the_progress(trained_once: Callable[..., Bench]) -> None:
    progress = trained_once().job.progress
    assert progress is not None
    assert (progress.train_step, progress.total_steps, progress.eta_seconds) == (8, 8, 0)
    assert progress.tokens_per_second is not None
    assert progress.tokens_per_second > 0
    assert progress.learning_rate is not None


def test_progress_reaches_the_end_even_if_the_last_train_steps_are_not_logged(
    bench_of: Callable[..., Bench],
) -> None:
    progress = bench_of(max_steps=3, logging_steps=2).to(Step.TRAIN).job.progress
    assert progress is not None
    assert (progress.train_step, progress.total_steps, progress.epoch, progress.eta_seconds) == (3, 3, 0.5, 0)


def test_a_checkpoint_of_all_weights_is_never_whole_on_the_disk(
    bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Save twice, resume from the bucket, and save again."""
    bench = bench_of(method="Full", max_steps=3, save_steps=1).to(Step.PREPARE)
    upload, names_on_disk = checkpoints.Saving.upload, []

    def look_and_upload(saving: checkpoints.Saving, folder: Path) -> None:
        work = bench.services.settings.work / bench.job_id
        names_on_disk.append({path.name for path in work.rglob("*") if path.suffix in (".safetensors", ".pt")})
        upload(saving, folder)

    monkeypatch.setattr(checkpoints.Saving, "upload", look_and_upload)
    bench.run(Step.TRAIN, should_stop=after_steps(2))
    bench.run(Step.TRAIN)
    assert bench.job.steps[Step.TRAIN].state == "done"
    assert len(names_on_disk) == 6
    assert all(names == {"model.safetensors"} for names in names_on_disk[::2])
    assert all("model.safetensors" not in names and "optimizer.pt" in names for names in names_on_disk[1::2])
