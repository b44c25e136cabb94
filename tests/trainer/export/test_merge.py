"""The merge, against PEFT's own: the same weights to bf16's last digit, whatever adapter and files they come from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from gemtune.errors import StepError
from tests import tiny_gemma
from trainer.export import stochastic_rounding
from trainer.export.lora_weights import canonical_name
from trainer.export.merge import merge
from trainer.export.tensor_file import TensorFile

LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def adapter_of(base: Path, folder: Path, **settings: Any) -> Path:
    """An adapter with random factors: PEFT's own begin with zeros, which any merge would get right."""
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**(LORA | settings)))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def peft_merged(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """In float32, by name."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    return dict(model.merge_and_unload().state_dict())


def assert_the_same(merged: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert merged
    for name, weight in merged.items():
        # A unit in the last of bf16's 8 binary digits: rounded up or down.
        torch.testing.assert_close(weight.float(), expected[name], rtol=2**-7, atol=1e-7)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("gemma3", {}),
        ("gemma2", {"use_rslora": True}),
        ("gemma3", {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 8}, "alpha_pattern": {"v_proj": 3}}),
    ],
)
def test_it_is_what_peft_merges(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    base = tiny_gemma.build(tmp_path / "base", family)
    adapter = adapter_of(base, tmp_path / "adapter", **settings)
    merge(base, adapter, tmp_path / "merged", "none")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {weight.dtype for weight in merged.values()} == {torch.bfloat16}
    assert_the_same(merged, peft_merged(base, adapter))
    plain = load_file(base / "model.safetensors")
    adapted = {name for name in plain if name.endswith("_proj.weight")}
    assert {name for name in plain if not torch.equal(merged[name], plain[name].bfloat16())} == adapted


def test_a_merged_folder_has_all_that_a_model_needs(tmp_path: Path, tiny: Path) -> None:
    adapter = adapter_of(tiny, tmp_path / "adapter")
    (adapter / "chat_template.jinja").write_text("{{ bos_token }}trained with this")
    merge(tiny, adapter, tmp_path / "merged", "none")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert names == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    }
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    turn = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(turn, tokenize=False) == "<bos>trained with this"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto").dtype == torch.bfloat16


def test_files_and_their_index_stay_split(tmp_path: Path, tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny)
    model.save_pretrained(tmp_path / "base", max_shard_size="200KB")
    adapter = adapter_of(tiny, tmp_path / "adapter")
    merge(tmp_path / "base", adapter, tmp_path / "merged", "none")
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    merged = {name: w for file in files for name, w in load_file(tmp_path / "merged" / file).items()}
    assert_the_same(merged, peft_merged(tiny, adapter))
    assert index["metadata"]["total_size"] == sum(w.numel() * w.element_size() for w in merged.values())
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")


def test_names_of_models_that_see_pictures_are_found_in_either_order(tmp_path: Path, tiny: Path) -> None:
    """Their checkpoints say language_model.model.…, their modules model.language_model.…"""
    adapter = adapter_of(tiny, tmp_path / "adapter")
    expected = peft_merged(tiny, adapter)
    seen, tower = (
        tmp_path / "seen",
        {"vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": torch.ones(8)},
    )
    seen.mkdir()
    (seen / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": {"dtype": "float32"}}))
    weights = {f"language_model.{name}": w for name, w in load_file(tiny / "model.safetensors").items()} | tower
    save_file(weights, seen / "model.safetensors", metadata={"format": "pt"})
    factors = load_file(adapter / "adapter_model.safetensors")
    renamed = {n.replace("model.model.layers", "model.model.language_model.layers"): w for n, w in factors.items()}
    save_file(renamed, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    merge(seen, adapter, tmp_path / "merged", "none")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.equal(merged.pop(next(iter(tower))), torch.ones(8).bfloat16())
    assert_the_same({name.removeprefix("language_model."): w for name, w in merged.items()}, expected)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["text_config"] == {"dtype": "bfloat16"}


def test_a_weight_of_another_model_is_not_passed_over(tmp_path: Path, tiny: Path) -> None:
    adapter = adapter_of(tiny, tmp_path / "adapter")
    other = tiny_gemma.build(tmp_path / "other", "gemma2")  # fewer layers
    with pytest.raises(StepError) as caught:
        merge(other, adapter, tmp_path / "merged", "none")
    assert caught.value.code == "bad_adapter"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"target_modules": ["embed_tokens"]}, "embed_tokens"),
        ({"modules_to_save": ["norm"]}, "norm"),
    ],
)
def test_an_adapter_that_is_more_than_products_is_refused(
    tmp_path: Path, tiny: Path, settings: dict[str, Any], named: str
) -> None:
    adapter = adapter_of(tiny, tmp_path / "adapter", **settings)
    with pytest.raises(StepError, match=named) as caught:
        merge(tiny, adapter, tmp_path / "merged", "none")
    assert caught.value.code == "bad_adapter"


def test_a_model_that_was_trained_whole_is_stored_as_it_is(tmp_path: Path, tiny: Path) -> None:
    merge(tiny, None, tmp_path / "merged", "none")
    trained = load_file(tiny / "model.safetensors")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert_the_same(merged, trained)
    merge(tiny, None, tmp_path / "again", "none")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(weight, merged[name]) for name, weight in again.items())
    merge(tmp_path / "merged", None, tmp_path / "bf16", "none")
    untouched = load_file(tmp_path / "bf16" / "model.safetensors")
    assert all(torch.equal(weight, merged[name]) for name, weight in untouched.items())


def test_changes_below_the_last_digit_of_bf16_are_there_on_average() -> None:
    torch.manual_seed(2)
    base = (torch.randn(300, 7000) * 0.05).bfloat16().float()
    change = base.abs() * torch.randn_like(base) * 2**-11  # an eighth of half a unit and less, most of them
    nearest, rounded = (base + change).bfloat16().float(), stochastic_rounding.bfloat16("a", base + change)
    kept = [float((found - base).mul(change).sum() / change.square().sum()) for found in (nearest, rounded.float())]
    assert kept[0] < 0.1
    assert kept[1] == pytest.approx(1, abs=0.05)
    apart = (rounded.float() - (base + change)) / base.abs()
    assert apart.abs().max() <= 2**-7
    assert abs(apart.mean()) < 2**-15
    assert torch.equal(stochastic_rounding.bfloat16("a", base), base.bfloat16())
    assert not torch.equal(stochastic_rounding.bfloat16("b", base + change), rounded)


def test_fp16_refuses_what_it_cannot_hold(tmp_path: Path, tiny: Path) -> None:
    merge(tiny, None, tmp_path / "half", "fp16")
    assert {w.dtype for w in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}
    weights = load_file(tiny / "model.safetensors")
    weights["model.norm.weight"][3] = 70_000
    large = Path(shutil.copytree(tiny, tmp_path / "large"))  # the other one is every test's
    save_file(weights, large / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StepError, match=r"model\.norm\.weight") as caught:
        merge(large, None, tmp_path / "merged", "fp16")
    assert caught.value.code == "not_in_fp16"


def test_four_bits_are_those_of_bitsandbytes_and_load_as_they_are(tmp_path: Path, tiny: Path) -> None:
    from transformers import BitsAndBytesConfig

    adapter = adapter_of(tiny, tmp_path / "adapter")
    merge(tiny, adapter, tmp_path / "bf16", "none")
    merge(tiny, adapter, tmp_path / "q4", "q4")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "q4", dtype="auto")
    quantize = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    own = AutoModelForCausalLM.from_pretrained(tmp_path / "bf16", quantization_config=quantize, dtype=torch.bfloat16)
    tokens = torch.arange(4, 40)[None]
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, own(tokens).logits)
    stored = load_file(tmp_path / "q4" / "model.safetensors")
    assert stored["model.layers.0.self_attn.q_proj.weight"].dtype == torch.uint8
    assert stored["model.embed_tokens.weight"].dtype == torch.bfloat16


def test_a_base_model_in_four_bits_is_no_base_for_a_merge(tmp_path: Path, tiny: Path) -> None:
    merge(tiny, None, tmp_path / "q4", "q4")
    with pytest.raises(StepError) as caught:
        merge(tmp_path / "q4", None, tmp_path / "merged", "none")
    assert caught.value.code == "base_model_quantized"


def test_a_file_written_tensor_by_tensor_is_a_safetensors_file(tmp_path: Path) -> None:
    tensors = {
        "b": torch.randn(3, 5),
        "a": torch.arange(7, dtype=torch.int64),
        "scalar": torch.tensor(2.5),
        "half": torch.randn(4, 4).bfloat16().T,
    }
    with TensorFile(tmp_path / "x.safetensors", list(tensors)) as file:
        file.add("a", tensors["a"])
        for name in ("b", "scalar", "half"):
            file.add(name, tensors[name])
    found = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_tensors_of_odd_lengths_come_where_every_reader_can_map_what_follows(tmp_path: Path) -> None:
    tensors = {
        "odd": torch.zeros(3, dtype=torch.uint8),
        "scale": torch.tensor([1.5]).bfloat16(),
        "b": torch.randn(3, 5),
        "count": torch.arange(3),
        "even": torch.randn(2, 4),
    }
    with TensorFile(tmp_path / "y.safetensors", list(tensors)) as file:
        for name, tensor in tensors.items():
            assert file.add(name, tensor) == tensor.numel() * tensor.element_size()
    found = load_file(tmp_path / "y.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    header = (tmp_path / "y.safetensors").read_bytes()
    entries = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    for name, tensor in tensors.items():
        assert entries[name]["data_offsets"][0] % tensor.element_size() == 0


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj"),
        ("language_model.model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj"),
        ("vision_tower.vision_model.post_layernorm.bias", "vision_tower.post_layernorm.bias"),
        ("model.vision_tower.post_layernorm.bias", "vision_tower.post_layernorm.bias"),
        ("language_model.lm_head.weight", "lm_head"),
    ],
)
def test_a_place_is_the_same_whoever_names_it(name: str, place: str) -> None:
    assert canonical_name(name) == place
