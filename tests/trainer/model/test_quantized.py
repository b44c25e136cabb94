"""QLoRA: an evaluation must not change the gradients that follow it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gemtune.datasets.conversation import of_messages
from gemtune.jobs.status import Step
from gemtune.request.spec import Spec
from tests import rows
from tests.trainer.conftest import Bench
from trainer.model.engines import huggingface
from trainer.model.hidden_states import head_inputs
from trainer.rows.encoded import Encoded
from trainer.rows.encoder import Encoder
from trainer.training.batches import flatten_rows


def test_an_evaluation_does_not_change_later_gradients(bench_of: Callable[..., Bench]) -> None:
    bench = bench_of(method="QLoRA")
    job, _ = bench.begin(Step.PREPARE)
    spec = Spec.model_validate_json(bench.services.buckets.config.read(job.spec_name))
    loaded = huggingface.load(bench.base, spec)
    encoder = Encoder(bench.base, max_length=128)
    encoded = [encoder.encode(of_messages(row["messages"])) for row in rows.train_rows(3)]
    batch = flatten_rows([[{"input_ids": r.input_ids, "labels": r.labels}] for r in encoded if isinstance(r, Encoded)])

    def gradients() -> dict[str, torch.Tensor]:
        loaded.model.train().zero_grad()
        head_inputs(loaded.model, batch, loaded.compute_dtype).hidden.float().square().sum().backward()
        return {n: w.grad.clone() for n, w in loaded.model.named_parameters() if w.grad is not None}

    for module in loaded.model.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"].p = 0.0
    before = gradients()
    with torch.no_grad():
        head_inputs(loaded.model.eval(), batch, loaded.compute_dtype)
    after = gradients()
    assert any(gradient.any() for gradient in before.values())
    assert all(torch.equal(before[name], after[name]) for name in before)
