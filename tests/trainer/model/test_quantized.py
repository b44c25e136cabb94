"""Weights in 4 bits.

Evaluations change no later gradient, and layers of any width are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from gemtune.datasets.conversation import of_messages
from gemtune.jobs.status import Step
from gemtune.request.spec import Spec
from tests import rows
from tests.trainer.conftest import Bench
from trainer.base_model import four_bits
from trainer.base_model.folder_contents import family_of
from trainer.model import loading
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


def test_layers_of_uneven_widths_are_computed_on_every_processor(tmp_path: Path) -> None:
    """Repacking, as some processors allow, takes whole blocks only."""
    from transformers import GemmaConfig, GemmaForCausalLM

    sizes = {"hidden_size": 72, "intermediate_size": 80, "head_dim": 24, "num_attention_heads": 3}
    config = GemmaConfig(**sizes, num_key_value_heads=1, num_hidden_layers=2, vocab_size=64)
    GemmaForCausalLM(config).save_pretrained(tmp_path)
    quantization = four_bits.quantization_config(torch.float32, family_of(tmp_path))
    tokens = torch.arange(10)[None]
    ours, plain = (
        loading.load(tmp_path, None, dtype=torch.float32, attention="eager", four_bits=quantization) for _ in range(2)
    )
    four_bits.keep_unpacked(plain, uneven_only=False)
    with torch.no_grad():
        assert torch.equal(ours(input_ids=tokens).logits, plain(input_ids=tokens).logits)
