"""Answers of trained jobs, compared with those of plain transformers and PEFT."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from gemtune.datasets.conversation import Conversation, Turn
from gemtune.errors import StepError
from gemtune.jobs.status import Step
from gemtune.request.spec import read_spec
from tests.trainer import untrained_results
from tests.trainer.conftest import Bench
from trainer.answers import __main__ as answers_process
from trainer.answers import tokenizer_process
from trainer.answers.answering import Answer, Question, answer
from trainer.answers.files import TrainedJob, find_export
from trainer.answers.in_transformers import Transformers
from trainer.answers.runtime import TransformersFiles
from trainer.export.merge import merge
from trainer.gguf.llama_library import Sampling
from trainer.new_tokens import embedding
from trainer.store import checkpoints

PROMPTS = ("Which colour has the sea?", "  Hello\n\nthere ")
TOKENS = 12


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Bench:
    """Return a finished LoRA job."""
    return Bench(tmp_path_factory.mktemp("job"), tiny, learning_rate=1e-2).to(Step.EXPORT)


@pytest.fixture(scope="module")
def merged(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merged") / "model"
    merge(bench.base, adapter_of(bench), folder, "none")
    return folder


def adapter_of(bench: Bench) -> Path:
    return Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1"))


def trained_job(bench: Bench, work: Path) -> TrainedJob:
    spec = read_spec(bench.services.buckets.config.read(bench.job.spec_name))
    return TrainedJob(bench.job, spec, bench.services.buckets, work, bench.services.settings.llama_cpp)


def ask(runtime: Any, prompt: str, *, by_base: bool = False, limit: int = TOKENS, **more: Any) -> Answer:
    conversation = Conversation((Turn("user", prompt),))
    question = Question(conversation, limit, by_base=by_base, **more)
    return answer(runtime, question, lambda text, is_thought: None, lambda: False)


def plain_answers(model: Any, folder: Path) -> list[list[int]]:
    """Return the greedy answers as a user of transformers gets them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = []
    for prompt in PROMPTS:
        turn = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        output = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        answers.append(output[0][inputs["input_ids"].shape[1] :].tolist())
    return answers


def without_end(tokens: list[int], ends: list[int]) -> list[int]:
    return [token for token in tokens if token not in ends]


def test_an_adapter_and_its_base_answer_token_by_token_as_plain_peft(bench: Bench, tmp_path: Path) -> None:
    runtime = Transformers(trained_job(bench, tmp_path).trained())
    folder = adapter_of(bench)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bench.base), str(folder)).eval()
    plain.generation_config = GenerationConfig.from_pretrained(folder)
    ends = plain.generation_config.eos_token_id
    expected = [without_end(tokens, ends) for tokens in plain_answers(plain, folder)]
    with plain.disable_adapter():
        expected_of_base = [without_end(tokens, ends) for tokens in plain_answers(plain, folder)]
    answers = [list(ask(runtime, prompt).tokens) for prompt in PROMPTS]
    assert answers == expected
    assert [list(ask(runtime, prompt, by_base=True).tokens) for prompt in PROMPTS] == expected_of_base
    assert answers != expected_of_base
    assert [list(ask(runtime, prompt).tokens) for prompt in PROMPTS] == expected, "the adapter is on again"


def test_a_merged_model_answers_as_plain_transformers(bench: Bench, merged: Path) -> None:
    runtime = Transformers(TransformersFiles(merged, None, merged, original=bench.base))
    plain = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    ends = plain.generation_config.eos_token_id
    expected = [without_end(tokens, ends) for tokens in plain_answers(plain, merged)]
    assert [list(ask(runtime, prompt).tokens) for prompt in PROMPTS] == expected
    by_base = [ask(runtime, prompt, by_base=True).tokens for prompt in PROMPTS]
    assert [list(tokens) for tokens in by_base] != expected


def test_the_base_of_a_whole_model_reads_new_tokens_as_that_of_an_adapter(tmp_path: Path, tiny: Path) -> None:
    adapter = untrained_results.write_adapter(tiny, tmp_path / "adapter", new_tokens=["<ask>", "<tell>", "<hear>"])
    added = embedding.read(adapter)
    merge(tiny, adapter, tmp_path / "merged", "none", new_tokens=added)
    adapted = Transformers(TransformersFiles(tiny, adapter, adapter))
    whole = Transformers(TransformersFiles(tmp_path / "merged", None, tmp_path / "merged", tiny, added))
    answers = [ask(runtime, "<hear> Hi <tell>", by_base=True).tokens for runtime in (adapted, whole)]
    assert answers[0] == answers[1] != ()


def test_drawn_tokens_depend_on_the_seed_alone(merged: Path) -> None:
    runtime = Transformers(TransformersFiles(merged, None, merged))
    first, again, other = (
        ask(runtime, PROMPTS[0], sampling=Sampling(5.0, 1.0, seed=seed)).tokens for seed in (1, 1, 2)
    )
    assert first == again != other
    nearly_greedy = ask(runtime, PROMPTS[0], sampling=Sampling(5.0, 1e-6, seed=3)).tokens
    assert nearly_greedy == ask(runtime, PROMPTS[0]).tokens


def test_an_answer_says_why_it_ended(tiny: Path) -> None:
    runtime = Transformers(TransformersFiles(tiny, None, tiny))
    whole = ask(runtime, PROMPTS[0])
    assert (len(whole.tokens), whole.ended) == (TOKENS, "length")
    runtime.context_length = whole.prompt_tokens + 3
    cut = ask(runtime, PROMPTS[0])
    assert (cut.tokens, cut.ended) == (whole.tokens[:3], "context")
    runtime.context_length = whole.prompt_tokens
    with pytest.raises(StepError) as caught:
        ask(runtime, PROMPTS[0])
    assert (caught.value.code, str(whole.prompt_tokens) in caught.value.message) == ("prompt_too_long", True)


def test_a_stopped_answer_keeps_what_was_generated(tiny: Path) -> None:
    runtime, pieces = Transformers(TransformersFiles(tiny, None, tiny)), list[str]()
    question = Question(Conversation((Turn("user", PROMPTS[0]),)), TOKENS)
    stopped = answer(runtime, question, lambda text, is_thought: pieces.append(text), lambda: len(pieces) >= 2)
    whole = ask(runtime, PROMPTS[0]).tokens
    assert (stopped.ended, stopped.tokens) == ("stopped", whole[: len(stopped.tokens)])
    assert 0 < len(stopped.tokens) < len(whole)


def test_an_answer_ends_at_a_token_of_the_generation_config(tiny: Path, tmp_path: Path) -> None:
    whole = ask(Transformers(TransformersFiles(tiny, None, tiny)), PROMPTS[0])
    folder = Path(shutil.copytree(tiny, tmp_path / "ending"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, whole.tokens[2]]}))
    ended = ask(Transformers(TransformersFiles(folder, None, folder)), PROMPTS[0])
    assert (ended.tokens, ended.ended) == (whole.tokens[: whole.tokens.index(whole.tokens[2])], "end")


def test_asking_a_checkpoint_leaves_it_as_training_resumes_from_it(bench: Bench, tmp_path: Path) -> None:
    """Ask one of all weights, which has a generation config of its own."""
    export, prefix, folder = bench.services.buckets.export, f"jobs/{bench.job_id}", tmp_path / "saved"
    folder.mkdir()
    for name in (*checkpoints.REQUIRED_FILES, "adapter_model.safetensors"):
        (folder / name).write_text(name)
    (folder / "generation_config.json").write_text("{}")
    checkpoints.Saving.begin(export, job_prefix=prefix, attempt=1, train_step=7).finish(folder)
    try:
        files = trained_job(bench, tmp_path).checkpoint(7)
        assert files.adapter is not None
        assert (files.adapter / "adapter_model.safetensors").is_symlink()
        assert checkpoints.newest(export, prefix, tmp_path / "resumed") is not None
    finally:
        export.delete_prefix(f"{prefix}/checkpoints/")


@pytest.mark.parametrize("choice", [[], ["--checkpoint", "7"], ["--format", "adapter"]])
def test_the_process_loads_every_choice_of_a_model(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: list[str]
) -> None:
    """Load as `gemtune try` does; the checkpoint has the trained adapter."""
    monkeypatch.setenv("GEMTUNE_HOME", str(bench.services.settings.home))
    export, prefix, folder = bench.services.buckets.export, f"jobs/{bench.job_id}", tmp_path / "saved"
    shutil.copytree(adapter_of(bench), folder, ignore=shutil.ignore_patterns("manifest.json"))
    for name in checkpoints.REQUIRED_FILES:
        (folder / name).write_text(name)
    checkpoints.Saving.begin(export, job_prefix=prefix, attempt=1, train_step=7).finish(folder)
    (tmp_path / "work").mkdir()
    trained = Transformers(trained_job(bench, tmp_path / "trained").trained())
    expected = ask(trained, PROMPTS[0])
    try:
        with ExitStack() as stack:
            runtime = answers_process._load([bench.job_id, *choice], tmp_path / "work", stack)
            answered, begin = ask(runtime, PROMPTS[0]), runtime.token_id("<bos>")
    finally:
        export.delete_prefix(f"{prefix}/checkpoints/")
    assert (answered.tokens, answered.text) == (expected.tokens, expected.text)
    assert (runtime.template, begin) == (trained.template, trained.token_id("<bos>"))


def test_the_process_with_the_tokenizer_says_why_there_is_no_model(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMTUNE_HOME", str(bench.services.settings.home))
    with tokenizer_process.start(["training_none"], tmp_path) as texts, pytest.raises(StepError) as caught:
        _ = texts.files
    assert caught.value.code == "job_not_found"


def test_errors_of_the_tokenizer_are_those_of_one_in_the_same_process(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(adapter_of(bench), tmp_path / "downloaded"))
    (folder / "tokenizer.json").write_text("{}")
    command = ["job", "--folder", str(folder), "--base-model", str(bench.base), "--format", "adapter"]
    with tokenizer_process.start(command, tmp_path) as texts:
        assert texts.files == TransformersFiles(bench.base, folder, folder)
        with pytest.raises(StepError) as caught:
            _ = texts.template
    with pytest.raises(StepError) as expected:
        Transformers(TransformersFiles(bench.base, folder, folder))
    assert (caught.value.code, caught.value.message) == (expected.value.code, expected.value.message)


def test_a_prompt_that_the_template_refuses_is_named_by_the_process(bench: Bench, tmp_path: Path) -> None:
    folder = adapter_of(bench)
    command = ["job", "--folder", str(folder), "--base-model", str(bench.base), "--format", "adapter"]
    conversation = Conversation((Turn("user", "<end_of_turn>"),))
    with tokenizer_process.start(command, tmp_path) as texts:
        refused = texts.prompt(conversation)
        texts._process.kill()
        with pytest.raises(MemoryError):
            texts.token_id("a")
    assert refused == tokenizer_process.encoder_of(TransformersFiles(bench.base, folder, folder)).prompt(conversation)


def test_a_checkpoint_that_was_deleted_is_named(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        trained_job(bench, tmp_path).checkpoint(3)
    assert (caught.value.code, "leave out --checkpoint" in str(caught.value.hint)) == ("no_checkpoint", True)


def test_an_export_has_no_base_model_beside_it(merged: Path) -> None:
    with pytest.raises(StepError) as caught:
        ask(Transformers(TransformersFiles(merged, None, merged)), "Hi", by_base=True)
    assert caught.value.code == "no_base"


def test_an_export_is_found_by_its_format(bench: Bench, tmp_path: Path) -> None:
    job, spec = find_export(bench.services, bench.job, "adapter")
    files = TrainedJob(job, spec, bench.services.buckets, tmp_path, bench.services.settings.llama_cpp).exported()
    assert isinstance(files, TransformersFiles)
    trained = Transformers(trained_job(bench, tmp_path / "trained").trained())
    assert ask(Transformers(files), PROMPTS[0]).tokens == ask(trained, PROMPTS[0]).tokens
    with pytest.raises(StepError) as caught:
        find_export(bench.services, bench.job, "gguf")
    hint = f"`gemtune export {bench.job_id} --format gguf --follow`"
    assert (caught.value.code, caught.value.hint) == ("not_exported", hint)
