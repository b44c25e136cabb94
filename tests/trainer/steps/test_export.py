"""Export: every format behaves as trained, and only complete ones count."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemtune.errors import StepError
from gemtune.handlers.answers import JobStatus
from gemtune.jobs.status import Step
from gemtune.machines.cost import LIST_PRICES
from gemtune.methods import Method
from gemtune.process import parent_death
from gemtune.request.exports import Limits, merged_export
from gemtune.services.advance import Advance
from tests import tiny_gemma
from tests.trainer import untrained_results
from tests.trainer.conftest import Bench
from tests.trainer.gguf.test_gguf import sharpen_logits
from tests.trainer.test_entry import run_trainer
from trainer.certificate import verdict
from trainer.context import StopRequested
from trainer.export import trained_weights
from trainer.gguf import conversion
from trainer.process import child
from trainer.process.child import ChildResult
from trainer.steps import export, export_files
from trainer.store import manifest

PAIRS = (("adapter", "none"), ("merged", "none"), ("merged", "fp16"), ("merged", "q4"))


@pytest.fixture
def trained_bench(tmp_path: Path) -> Callable[..., Bench]:
    """Return a factory of jobs whose train step is done."""

    def make(
        export_format: str = "adapter", quantization: str = "none", *, accept_loss: bool = False, **training: Any
    ) -> Bench:
        base = sharpen_logits(tiny_gemma.build(tmp_path / "base", head_dim=256))
        bench = Bench(tmp_path / "home", base, **training)
        bench.export = {"format": export_format, "quantization": quantization, "accept_loss": accept_loss}
        return untrained_results.publish_results(bench)

    return make


def export_folder(bench: Bench) -> Path:
    bench.run(Step.EXPORT)
    assert bench.job.status == "completed"
    assert bench.job.adapter_path is not None
    return Path(bench.job.adapter_path)


@pytest.mark.parametrize("method", ["LoRA", "Full"])
@pytest.mark.parametrize(("export_format", "quantization"), PAIRS)
def test_each_format_and_quantization_is_complete_and_certified(
    trained_bench: Callable[..., Bench], method: str, export_format: str, quantization: str
) -> None:
    bench = trained_bench(export_format, quantization, method=method)
    folder = export_folder(bench)
    for artifact in bench.job.artifacts:
        assert manifest.sha256(folder / artifact.name) == artifact.sha256
    names = {artifact.name for artifact in bench.job.artifacts}
    assert names >= {
        "README.md",
        "certificate.json",
        "certificate.md",
        "chat_template.jinja",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    }
    parity = bench.job.certificate
    assert parity is not None
    assert (parity.rows, parity.probes, parity.prompts, parity.prompts_identical) == (8, 11, 20, 20)
    assert (parity.mean_kl == 0) is (export_format == "adapter")
    assert parity.noise_floor is None or (quantization == "q4" and method == "LoRA")
    assert (parity.verdict, parity.losses) == ("passed", ())
    assert JobStatus.of(bench.job, LIST_PRICES).certificate == parity
    page = json.loads((folder / "certificate.json").read_text())
    assert page["figures"] == parity.model_dump(mode="json")
    card = (folder / "README.md").read_text()
    assert f"| perplexity, as exported | {parity.perplexity:.4f} |" in card
    assert ("overflows in fp16 arithmetic" in card) is (quantization == "fp16")
    assert ("vllm serve ." in card) is (export_format == "merged" or method == "Full")


def test_the_certificate_matches_a_plain_computation(trained_bench: Callable[..., Bench]) -> None:
    """Compute full logits of whole rows with plain transformers and PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from trainer.rows.prepared import read_tokens

    bench = trained_bench("merged", "q4")
    folder = export_folder(bench)
    objects = bench.services.buckets.export
    adapter = objects.uri(f"jobs/{bench.job_id}/adapter/1")
    trained = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bench.base), adapter)
    exported = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    kl, same, loss, count = 0.0, 0, 0.0, 0
    for row in read_tokens(Path(objects.uri(f"jobs/{bench.job_id}/prepared/1")) / "eval.parquet"):
        tokens, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
        with torch.no_grad():
            p, q = (m(tokens).logits[0, :-1].float().log_softmax(-1)[labels != -100] for m in (trained, exported))
        targets = labels[labels != -100]
        kl += float((p.exp() * (p - q)).sum())
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
        loss -= float(q[torch.arange(len(q)), targets].sum())
        count += len(targets)
    parity = bench.job.certificate
    assert parity is not None
    assert parity.positions == count
    assert parity.mean_kl == pytest.approx(kl / count, rel=0.05, abs=1e-3)
    assert parity.top1_agreement == pytest.approx(same / count, abs=2.5 / count)
    assert parity.perplexity == pytest.approx(float(torch.tensor(loss / count).exp()), rel=0.05)


def change_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("<end_of_turn>\\n", "<end_of_turn>"))


def add_one_to_norm(folder: Path) -> None:
    """Mimic a converter that forgets Gemma's `1 + weight` norms."""
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.2.post_attention_layernorm.weight"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def truncate_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def empty_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("sabotage", "reason"),
    [
        (change_template, "chat_template.jinja is not that of the training"),
        (add_one_to_norm, "post_attention_layernorm.weight is not the base model's"),
        (truncate_weights, "cannot be loaded"),
        (empty_tokenizer, "tokenizer.json is not that of the training"),
    ],
)
def test_a_spoilt_export_is_not_published_and_a_second_attempt_works(
    trained_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, sabotage: Callable[[Path], None], reason: str
) -> None:
    bench = trained_bench("merged", "none")
    write = export_files.write

    def write_and_spoil(context: Any, trained: Any, folder: Path, **more: Any) -> None:
        write(context, trained, folder, **more)
        sabotage(folder)

    monkeypatch.setattr(export_files, "write", write_and_spoil)
    with pytest.raises(StepError, match=reason) as caught:
        bench.run(Step.EXPORT)
    assert caught.value.code == "export_differs"
    objects = bench.services.buckets.export
    assert list(objects.list(f"jobs/{bench.job_id}/export/")) == []
    assert manifest.read_whole(objects, f"jobs/{bench.job_id}/adapter/1") is not None
    monkeypatch.setattr(export_files, "write", write)
    assert export_folder(bench).name == "2"


def test_a_merge_that_lost_the_adapter_is_noticed(
    trained_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.export import merge

    bench = trained_bench("merged", "none")
    original = merge.merge
    monkeypatch.setattr(merge, "merge", lambda base, adapter, *rest, **more: original(base, None, *rest, **more))
    with pytest.raises(StepError, match=r"differs from base \+ scale") as caught:
        bench.run(Step.EXPORT)
    assert caught.value.code == "export_differs"


def strict(limits: Limits, method: Method, *, has_experts: bool) -> Limits:
    """Return limits of NF4 that no rounding keeps."""
    strictest = replace(limits, kl=1e-9, noise=0.0, change=0.9999999)
    return strictest if limits == merged_export("q4").limits else limits


def test_an_export_that_loses_too_much_names_the_next_larger_one_that_passes(
    trained_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = trained_bench("merged", "q4")
    phases: list[str] = []
    monkeypatch.setattr(verdict, "limits_for", strict)
    monkeypatch.setattr(Advance, "record_phase", lambda *_, phase: phases.append(phase))
    with pytest.raises(StepError, match="mean KL on held-out rows, nats per position is 0") as caught:
        bench.run(Step.EXPORT)
    assert caught.value.code == "export_loses_too_much"
    assert "share kept of what training changed is" in str(caught.value)
    assert caught.value.hint == (
        "the training result is kept: export again with none, which passes, or with accept_loss"
    )
    assert phases == [
        "reading the trained weights",
        "merging the weights",
        "comparing the export with the trained model",
        "measuring what the same rounding costs the base model",
        "trying none, as q4 loses too much: merging the weights",
        "trying none, as q4 loses too much: comparing the export with the trained model",
    ]
    assert list(bench.services.buckets.export.list(f"jobs/{bench.job_id}/export/")) == []


def test_an_error_of_an_export_is_raised_even_if_its_files_cannot_be_deleted(
    trained_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lose(*_: Any) -> None:
        raise StepError("export_loses_too_much", "the mean KL is 7", hint="export in more bits")

    def refuse(*_: Any) -> None:
        raise OSError("the storage is away")

    context = trained_bench("merged", "none").context(Step.EXPORT)
    monkeypatch.setattr(export, "_export_to", lose)
    monkeypatch.setattr(type(context.buckets.export), "delete_prefix", refuse)
    with pytest.raises(StepError, match="the mean KL is 7"):
        export.run(context)
    assert [record.getMessage().partition(" ")[2] for record in caplog.records if "away" in record.getMessage()] == [
        "was not deleted: the storage is away"
    ] * 2


def test_where_the_disk_is_memory_it_holds_no_merged_weights_while_they_are_compared(
    trained_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export with a noise floor and tries of other quantizations, all merged."""
    bench = trained_bench("merged", "q4")
    monkeypatch.setattr(verdict, "limits_for", strict)
    context = replace(bench.context(Step.EXPORT), mounted=True)
    compare, local = child.run, []

    def look_and_compare(arguments: Sequence[str], check_stop: Callable[[], None]) -> ChildResult:
        weights = list(context.work.rglob("*.safetensors"))
        local.append([path.parent.name for path in weights if not path.is_symlink()])
        assert {"exported"} <= {path.parent.name for path in weights}
        return compare(arguments, check_stop)

    monkeypatch.setattr(child, "run", look_and_compare)
    with pytest.raises(StepError) as caught:
        export.run(context)
    assert caught.value.code == "export_loses_too_much"
    assert len(local) > 2  # the export, its floor, and another quantization
    assert not any(local)
    prefix, objects = f"jobs/{bench.job_id}", bench.services.buckets.export
    assert [stat.name for part in ("export", "temporary") for stat in objects.list(f"{prefix}/{part}/")] == []


@pytest.mark.usefixtures("tools")
def test_temporary_weights_of_a_folder_that_is_written_again_have_other_names(
    trained_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    """A mount may still show the older object, which has the same size."""
    bench = trained_bench("gguf", "q8_0")
    context = replace(bench.context(Step.EXPORT), mounted=True)
    file = tmp_path / "merged" / "model.safetensors"
    file.parent.mkdir()
    for content in (b"trained", b"as base"):
        file.unlink(missing_ok=True)
        file.write_bytes(content)
        export_files.file_mover(context, file.parent)(file)
        assert file.is_symlink()
    objects = bench.services.buckets.export
    stored = [objects.read(stat.name) for stat in objects.list(f"jobs/{bench.job_id}/temporary/")]
    assert sorted(stored) == [b"as base", b"trained"]


@pytest.mark.usefixtures("tools")
def test_a_gguf_file_leaves_the_disk_before_others_are_written_for_comparison(
    trained_bench: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = trained_bench("gguf", "q8_0")
    context = bench.context(Step.EXPORT)
    written: list[str] = []

    def convert(model: Path, folder: Path, *rest: Any, **more: Any) -> int:
        (folder / "model-q8_0.gguf").write_bytes(b"GGUF")
        return 0

    monkeypatch.setattr(conversion, "write", convert)
    context.work.mkdir(parents=True, exist_ok=True)
    trained = trained_weights.locate(context)
    export_files.write(context, trained, tmp_path / "exported", written=lambda path: written.append(path.name))
    assert written == ["model-q8_0.gguf"]


def test_an_accepted_loss_is_said_in_status_card_and_file_name(
    trained_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    bench = trained_bench("merged", "q4", accept_loss=True)
    monkeypatch.setattr(verdict, "limits_for", strict)
    folder = export_folder(bench)
    parity = bench.job.certificate
    assert parity is not None
    assert parity.verdict == "loss_accepted"
    assert parity.noise_floor is not None
    assert next(loss.partition(" is ")[0] for loss in parity.losses) == "mean KL on held-out rows, nats per position"
    assert parity.losses[0] in (folder / "README.md").read_text()
    assert "loses more of the training than its format may" in (folder / "certificate.md").read_text()
    assert {path.name for path in folder.glob("*.safetensors")} == {"model-lossy.safetensors"}
    assert AutoModelForCausalLM.from_pretrained(folder).config.quantization_config is not None


def test_an_accepted_loss_does_not_excuse_a_wrong_file(
    trained_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = trained_bench("merged", "none", accept_loss=True)
    write = export_files.write

    def write_and_spoil(context: Any, trained: Any, folder: Path, **more: Any) -> str:
        note = write(context, trained, folder, **more)
        add_one_to_norm(folder)
        return note

    monkeypatch.setattr(export_files, "write", write_and_spoil)
    with pytest.raises(StepError) as caught:
        bench.run(Step.EXPORT)
    assert caught.value.code == "export_differs"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_export_interrupted_while_publishing_does_not_count(
    trained_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    bench = trained_bench("merged", "none")
    objects = bench.services.buckets.export
    upload = type(objects).upload

    def failing_upload(self: Any, path: Path, name: str) -> None:
        if name.endswith("model.safetensors"):
            raise error
        upload(self, path, name)

    monkeypatch.setattr(type(objects), "upload", failing_upload)
    with pytest.raises(type(error)):
        bench.run(Step.EXPORT)
    assert manifest.read_whole(objects, f"jobs/{bench.job_id}/export/1") is None
    monkeypatch.setattr(type(objects), "upload", upload)
    assert export_folder(bench).name == "2"


@pytest.mark.parametrize(("damaged", "place"), [(False, "1"), (True, "2")])
def test_an_earlier_attempts_export_is_reused_if_it_matches_its_manifest(
    trained_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, damaged: bool, place: str
) -> None:
    bench = trained_bench("merged", "none")
    with monkeypatch.context() as patch:
        patch.setattr(type(bench.services.advance), "finish", None)  # killed before the record is updated
        with pytest.raises(TypeError):
            bench.run(Step.EXPORT)
    objects, temporary = bench.services.buckets.export, f"jobs/{bench.job_id}/temporary/"
    if damaged:
        name = f"jobs/{bench.job_id}/export/1/config.json"
        objects.write(name, objects.read(name).replace(b"gemma3", b"gemma2"))
    objects.write(f"{temporary}1/left", b"by the process that was killed")
    objects.write(f"{temporary}3/read", b"by the attempt that has replaced this one")
    assert export_folder(bench).name == place
    assert [stat.name for stat in objects.list(temporary)] == [f"{temporary}3/read"]
    assert {Path(artifact.uri).parent.name for artifact in bench.job.artifacts} == {place}
    assert bench.job.certificate is not None


def test_an_adapter_is_exported_without_torch_and_compared_in_another_process(
    trained_bench: Callable[..., Bench],
) -> None:
    bench = trained_bench()
    code, output = run_trainer(bench, "export", code="import sys\nsys.modules['torch'] = None")
    assert code == 0, output
    assert bench.job.status == "completed", output
    assert bench.job.certificate is not None
    assert bench.job.certificate.mean_kl == 0


@pytest.mark.parametrize(("method", "quantization"), [("LoRA", "q8_0"), ("Full", "f16"), ("Full", "q8_0")])
def test_a_gguf_job_from_training_to_its_files(
    trained_bench: Callable[..., Bench],
    tools: Path,
    method: str,
    quantization: str,
) -> None:
    bench = trained_bench("gguf", quantization, method=method)
    folder = export_folder(bench)
    assert {path.name for path in folder.iterdir()} == {
        "Modelfile",
        "README.md",
        "certificate.json",
        "certificate.md",
        "manifest.json",
        f"model-{quantization}.gguf",
    }
    assert bench.job.certificate is not None
    assert bench.job.certificate.prompts_identical == 20
    card = (folder / "README.md").read_text()
    assert "ollama create mine -f Modelfile" in card
    assert f"llama-cli --model model-{quantization}.gguf" in card


def test_a_stop_ends_the_child_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    popen = subprocess.Popen

    def recording_popen(*arguments: Any, **more: Any) -> Any:
        started.append(popen(*arguments, **more))
        return started[-1]

    def stop() -> None:
        raise StopRequested

    monkeypatch.setattr(subprocess, "Popen", recording_popen)
    with pytest.raises(StopRequested):
        child.run(["-c", "import time; time.sleep(60)"], stop)
    assert started[0].returncode == -9


def test_a_child_process_ends_when_the_step_is_killed(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"  # reaches its end once no process has it open for writing
    os.mkfifo(pipe)
    waits = (
        f"import os, time; file = open({str(pipe)!r}, 'w'); print(os.getpid(), file=file, flush=True); time.sleep(60)"
    )
    runs = f"from trainer.process import child; child.run(['-c', {waits!r}], lambda: None)"
    parent = subprocess.Popen([sys.executable, "-c", runs])
    try:
        with pipe.open() as file:
            started = int(file.readline())
            assert started != parent.pid
            os.kill(started, 0)
            parent.kill()
            assert select.select([file], [], [], 5)[0], "the child process is still running"
            assert file.read() == ""
    finally:
        parent.kill()
        parent.wait()


def test_a_child_process_whose_parent_is_gone_does_nothing() -> None:
    other = os.getppid()
    arguments = [parent_death.__file__, str(other), "9", "-c", "print('it ran')"]
    completed = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, check=False)
    assert (completed.returncode, completed.stdout) == (1, b"")


def test_a_child_process_ended_by_the_machine_is_not_blamed_on_the_export() -> None:
    ended = child.run(["-c", "import os; os.kill(os.getpid(), 9)"], lambda: None)
    with pytest.raises(MemoryError):
        ended.check_machine()
    ended = child.run(["-c", "raise OSError(28, 'No space left on device')"], lambda: None)
    with pytest.raises(OSError, match="No space left"):
        ended.check_machine()
