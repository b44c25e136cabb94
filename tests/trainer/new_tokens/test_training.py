"""Jobs with new tokens, beside plain transformers and PEFT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune.jobs.status import Step
from tests import rows
from tests.trainer.conftest import Bench
from tests.trainer.model.test_adapter_variants import RATE, STEPS, load_plain, plain_training
from tests.trainer.steps.test_train import adapter
from tests.trainer.training.test_base_job import largest_difference
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
    table = model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(added.tokenizer_size, mean_resizing=False)
    with torch.no_grad():
        for text, row in added.ids.items():
            model.get_input_embeddings().weight[row] = table[list(added.pieces[text])].mean(0)
    return model


@pytest.fixture
def trained(bench_of: Callable[..., Bench]) -> Bench:
    options = {"max_steps": STEPS, "learning_rate": RATE, "batch_size": 6, "lora_dropout": 0.0, "eval_strategy": "no"}
    bench = put_marked(bench_of(new_tokens=TOKENS, **options))
    bench.export = {"format": "merged"}
    return bench.to(Step.EXPORT)


def test_rows_of_new_tokens_train_and_merge_as_with_plain_peft(trained: Bench) -> None:
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(trained.services.buckets.export.uri(f"jobs/{trained.job_id}/prepared/1"))
    added = embedding.read(folder)
    assert added is not None
    ids = list(added.ids.values())
    tokenized = list(read_tokens(folder / "train.parquet"))
    assert all(row["input_ids"].count(token) == 1 for row in tokenized for token in ids)
    losses, plain = plain_training(
        lambda: extended_base(trained.base, added), tokenized, {"trainable_token_indices": {"embed_tokens": ids}}
    )
    assert [loss for _, loss in trained.curve()] == pytest.approx(losses, rel=1e-5)
    expected = {
        name: weight.detach().contiguous()
        for name, weight in get_peft_model_state_dict(plain, save_embedding_layers=False).items()
    }
    # AdamW's first steps have the size of the learning rate, however small the gradient is that rounding changes.
    assert largest_difference(expected, adapter(trained)) < RATE / 10
    (rows_name,) = (name for name in expected if name.endswith("trainable_tokens_delta"))
    assert float((expected[rows_name] - adapter(trained)[rows_name]).abs().max()) < 1e-5

    adapter_folder = trained.services.buckets.export.uri(f"jobs/{trained.job_id}/adapter/1")
    tokenizer = AutoTokenizer.from_pretrained(adapter_folder)
    user_base = load_plain(trained.base)
    user_base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    loaded: Any = PeftModel.from_pretrained(user_base, adapter_folder)
    tokens = tokenizer("<ask>What is the sky? <tell>", return_tensors="pt").input_ids
    assert set(ids) <= set(tokens[0].tolist())
    with torch.no_grad():
        logits = plain.eval()(tokens).logits
        torch.testing.assert_close(loaded(tokens).logits, logits, atol=1e-4, rtol=0)

    merged_folder = str(trained.job.adapter_path)
    merged: Any = AutoModelForCausalLM.from_pretrained(merged_folder, dtype=torch.float32)
    assert merged.config.vocab_size == len(tokenizer) == len(AutoTokenizer.from_pretrained(merged_folder))
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    with torch.no_grad():
        assert float((merged(tokens).logits - logits).abs().max()) < 0.02  # merged weights are in bf16
    before = AutoModelForCausalLM.from_pretrained(trained.base, dtype=torch.bfloat16).model.embed_tokens.weight
    assert torch.equal(merged.model.embed_tokens.weight[: len(before)], before.float())
