"""Jobs with new tokens, beside plain transformers and PEFT."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune.jobs.status import Step
from gemtune.request.spec import Spec
from tests import preference_rows, rows
from tests.trainer.conftest import Bench
from tests.trainer.model.test_adapter_variants import RATE, STEPS, load_plain, plain_training
from tests.trainer.steps.test_train import adapter, after_steps
from tests.trainer.training.test_base_job import DPO, go_on, largest_difference
from tests.trainer.training.test_kto import kto_bench, reference_losses
from trainer.model.engines import huggingface
from trainer.model.engines.interface import StartingPoint
from trainer.new_tokens import embedding
from trainer.rows.prepared import read_tokens

TOKENS = ["<ask>", "<tell>"]


def marked(chats: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return conversations whose questions and answers begin with a token."""
    text = json.dumps(chats)
    changed: list[dict[str, Any]] = json.loads(text)
    for chat in changed:
        question, answer = chat["messages"][0], chat["messages"][-1]
        question["content"], answer["content"] = f"<ask>{question['content']}", f"<tell> {answer['content']}"
    return changed


def put_marked(bench: Bench) -> Bench:
    bench.put("train", marked(rows.train_rows(6)))
    bench.put("eval", marked(rows.held_out_rows(4)))
    return bench


def extended_base(base: Path, added: embedding.NewTokens) -> Any:
    """Return the base model with first rows, as a user of PEFT sets it up."""
    model = load_plain(base)
    if added is None:
        return model
    table = model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(added.tokenizer_size, mean_resizing=False)
    with torch.no_grad():
        for text, row in added.ids.items():
            model.get_input_embeddings().weight[row] = table[list(added.pieces[text])].mean(0)
    return model


# Fields of the request, and the options of PEFT's LoraConfig that they mean; None stands for the new tokens' ids.
WHOLE = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "new tokens": ({"new_tokens": TOKENS}, {"trainable_token_indices": None}),
    "embedding": ({"train_embeddings": True}, WHOLE),
    "both": ({"new_tokens": TOKENS, "train_embeddings": True}, WHOLE),
}
SHORT: dict[str, Any] = {
    "max_steps": STEPS,
    "learning_rate": RATE,
    "batch_size": 6,
    "lora_dropout": 0.0,
    "eval_strategy": "no",
}


def prepared(bench: Bench) -> Path:
    return Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_embeddings_train_and_merge_as_with_plain_peft(bench_of: Callable[..., Bench], variant: str) -> None:
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict
    from transformers import AutoModelForCausalLM, AutoTokenizer

    fields, options = VARIANTS[variant]
    bench = put_marked(bench_of(**SHORT, **fields))
    bench.export = {"format": "merged"}
    bench.to(Step.EXPORT)
    added = embedding.read(prepared(bench))
    ids = [] if added is None else list(added.ids.values())
    tokenized = list(read_tokens(prepared(bench) / "train.parquet"))
    assert all(row["input_ids"].count(token) == 1 for row in tokenized for token in ids)
    if "trainable_token_indices" in options:
        options = {"trainable_token_indices": {"embed_tokens": ids}}
    losses, plain = plain_training(lambda: extended_base(bench.base, added), tokenized, options)
    assert [loss for _, loss in bench.curve()] == pytest.approx(losses, rel=1e-5)
    expected = {
        name: weight.detach().contiguous()
        for name, weight in get_peft_model_state_dict(plain, save_embedding_layers=False).items()
    }
    # AdamW's first steps have the size of the learning rate, however small the gradient is that rounding changes.
    assert largest_difference(expected, adapter(bench)) < RATE / 10
    for name, weight in expected.items():
        if name.endswith("trainable_tokens_delta"):
            assert float((weight - adapter(bench)[name]).abs().max()) < 1e-5

    adapter_folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1")
    tokenizer = AutoTokenizer.from_pretrained(adapter_folder)
    user_base = load_plain(bench.base)
    before = user_base.get_input_embeddings().weight.detach().clone()
    user_base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    loaded: Any = PeftModel.from_pretrained(user_base, adapter_folder)
    tokens = tokenizer("<ask>What is the sky? <tell>", return_tensors="pt").input_ids
    assert set(ids) <= set(tokens[0].tolist())
    with torch.no_grad():
        logits = plain.eval()(tokens).logits
        torch.testing.assert_close(loaded(tokens).logits, logits, atol=1e-3, rtol=0)

    merged_folder = str(bench.job.adapter_path)
    merged: Any = AutoModelForCausalLM.from_pretrained(merged_folder, dtype=torch.float32)
    assert merged.config.vocab_size == len(tokenizer) == len(AutoTokenizer.from_pretrained(merged_folder))
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    with torch.no_grad():
        assert float((merged(tokens).logits - logits).abs().max()) < 0.03  # merged weights are in bf16
    table = merged.model.embed_tokens.weight[: len(before)]
    assert torch.equal(table, before.bfloat16().float()) is ("train_embeddings" not in fields)


@pytest.mark.parametrize("variant", ["new tokens", "embedding"])
def test_a_resumed_training_ends_with_the_same_embeddings(bench_of: Callable[..., Bench], variant: str) -> None:
    from safetensors import safe_open

    training = SHORT | {"max_steps": 4, "save_steps": 2} | VARIANTS[variant][0]
    uninterrupted = put_marked(bench_of(**training)).to(Step.TRAIN)
    interrupted = put_marked(bench_of(**training)).to(Step.PREPARE)
    interrupted.run(Step.TRAIN, should_stop=after_steps(2))
    (checkpoint,) = Path(interrupted.services.buckets.export.uri(f"jobs/{interrupted.job_id}/checkpoints")).rglob(
        "adapter_model.safetensors"
    )
    with safe_open(checkpoint, framework="pt") as file:
        assert not [name for name in file.keys() if "base_layer" in name]  # noqa: SIM118
    interrupted.run(Step.TRAIN)
    assert interrupted.curve() == uninterrupted.curve()
    assert largest_difference(adapter(uninterrupted), adapter(interrupted, attempt=2)) == 0


@pytest.mark.parametrize("variant", ["new tokens", "embedding"])
def test_dpo_goes_on_with_the_embeddings_of_a_supervised_job(bench_of: Callable[..., Bench], variant: str) -> None:
    """The first loss is log 2 only if the reference has the embeddings."""
    bench = put_marked(bench_of(**SHORT, **VARIANTS[variant][0])).to(Step.TRAIN)
    bench.services.cancel(bench.job_id)
    before, first = adapter(bench), embedding.read(prepared(bench))
    pairs = preference_rows.pairs(marked(rows.train_rows(4)))
    go_on(bench, pairs, pairs, **DPO).to(Step.EXPORT)
    losses = [loss for _, loss in bench.curve()]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < losses[0]
    assert embedding.read(prepared(bench)) == first
    after = adapter(bench)
    names = [name for name in before if name.endswith("trainable_tokens_delta") or "embed_tokens" in name]
    assert names
    assert all(float((before[name] - after[name]).abs().max()) > 1e-4 for name in names)


def test_kto_trains_new_tokens_beside_a_reference_with_their_first_rows(bench_of: Callable[..., Bench]) -> None:
    from peft import PeftModel

    bench = kto_bench(bench_of, max_steps=3, batch_size=4, new_tokens=TOKENS)
    bench.put("train", preference_rows.labelled(marked(rows.train_rows(8))))
    bench.put("eval", preference_rows.labelled(marked(rows.held_out_rows(4))))
    bench.to(Step.TRAIN)
    added = embedding.read(prepared(bench))
    assert added is not None
    held_out = list(read_tokens(prepared(bench) / "eval.parquet"))
    assert all(token in row["prompt_ids"] + row["completion_ids"] for row in held_out for token in added.ids.values())
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1")
    model = PeftModel.from_pretrained(extended_base(bench.base, added), folder).eval()
    losses, margin = reference_losses(model, held_out)
    assert bench.job.metrics is not None
    expected = {"eval_loss": sum(losses) / len(losses), "margin": margin}
    assert bench.job.metrics.by_name() == pytest.approx(expected, rel=1e-3)
    deltas = [weight for name, weight in adapter(bench).items() if name.endswith("trainable_tokens_delta")]
    first = added.first_rows(load_plain(bench.base).get_input_embeddings().weight.detach())
    assert deltas
    assert all(float((delta - first).abs().max()) > 1e-4 for delta in deltas)


def test_a_base_model_in_16_bits_gets_an_embedding_in_32_bits(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AdamW's small steps need them; training on from the adapter keeps them."""
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})  # many CPUs compute in 32 bits
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).save_pretrained(base)
    training = {"base_model_id": str(base), "train_embeddings": True, "lora_dropout": 0.0}
    spec = Spec.model_validate({"processed_dataset_id": "chats", "training_config": training})
    model: Any = huggingface.load(base, spec).model
    table, head = (layer().weight for layer in (model.get_input_embeddings, model.get_output_embeddings))
    assert table is head
    assert (table.dtype, model.get_input_embeddings()(torch.tensor([[7]])).dtype) == (torch.float32, torch.bfloat16)
    table.data += 1e-5
    huggingface.save(model, tmp_path / "adapter")
    again: Any = huggingface.load(base, spec, StartingPoint(tmp_path / "adapter")).model
    assert again.get_input_embeddings().weight is again.get_output_embeddings().weight
    assert torch.equal(again.get_input_embeddings().weight, table)
