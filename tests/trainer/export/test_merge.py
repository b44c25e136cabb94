"""Merging adapters, compared with PEFT's merge up to rounding in bf16."""

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
from gemtune.machines import export_memory, model_size
from gemtune.request.exports import merged_export
from tests import tiny_gemma
from trainer.certificate.files.settings import merged_problems
from trainer.export import merge as merging
from trainer.export import stochastic_rounding
from trainer.export.lora_weights import canonical_name
from trainer.export.merge import merge
from trainer.export.tensor_file import TensorFile

LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def adapter_of(base: Path, folder: Path, **settings: Any) -> Path:
    """Save an adapter with random factors.

    PEFT's own begin with zeros, with which any merge would be right.
    """
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**(LORA | settings)))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def peft_merged(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """Return the weights that PEFT merges in float32, by name."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    return dict(model.merge_and_unload().state_dict())


def assert_equal_weights(merged: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert merged
    for name, weight in merged.items():
        # Allow one unit in the last of bf16's 8 binary digits, for rounding up or down.
        torch.testing.assert_close(weight.float(), expected[name], rtol=2**-7, atol=1e-7)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("gemma3", {}),
        ("gemma2", {"use_rslora": True}),
        ("gemma3", {"use_dora": True}),
        ("gemma2", {"use_dora": True, "use_rslora": True, "rank_pattern": {"q_proj": 2}}),
        ("gemma3", {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 8}, "alpha_pattern": {"v_proj": 3}}),
    ],
)
def test_a_merge_matches_pefts_in_its_weights(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    base = tiny_gemma.build(tmp_path / "base", family)
    adapter = adapter_of(base, tmp_path / "adapter", **settings)
    merge(base, adapter, tmp_path / "merged", "none")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {weight.dtype for weight in merged.values()} == {torch.bfloat16}
    assert_equal_weights(merged, peft_merged(base, adapter))
    plain = load_file(base / "model.safetensors")
    adapted = {name for name in plain if name.endswith("_proj.weight")}
    assert {name for name in plain if not torch.equal(merged[name], plain[name].bfloat16())} == adapted


def test_a_merged_folder_has_every_file_of_a_model(tmp_path: Path, tiny: Path) -> None:
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


@pytest.mark.parametrize("base_shard", ["200KB", "1GB"])
def test_weights_are_written_in_shards_of_a_size_whatever_the_base_model_has(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, base_shard: str
) -> None:
    monkeypatch.setattr(merging, "SHARD_BYTES", 150_000)
    model = AutoModelForCausalLM.from_pretrained(tiny)
    model.save_pretrained(tmp_path / "base", max_shard_size=base_shard)
    adapter, folder, moved = adapter_of(tiny, tmp_path / "adapter"), tmp_path / "merged", tmp_path / "moved"
    moved.mkdir()

    def take(path: Path) -> None:
        assert [file.name for file in folder.glob("*.safetensors")] == [path.name]  # one at a time
        path.rename(moved / path.name)

    merge(tmp_path / "base", adapter, folder, "none", written=take)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{number + 1:05}-of-{len(files):05}.safetensors" for number in range(len(files))]
    assert len(files) > 2
    merged = {name: w for file in files for name, w in load_file(moved / file).items()}
    assert_equal_weights(merged, peft_merged(tiny, adapter))
    assert index["metadata"]["total_size"] == sum(w.numel() * w.element_size() for w in merged.values())
    sizes = [[w.numel() * w.element_size() for w in load_file(moved / file).values()] for file in files]
    assert all(sum(shard) <= 150_000 or len(shard) == 1 for shard in sizes)
    for path in moved.iterdir():
        path.rename(folder / path.name)
    AutoModelForCausalLM.from_pretrained(folder)
    assert merged_problems(tmp_path / "base", adapter, folder, merged_export("none")) == []
    (folder / "model.safetensors").write_bytes(b"")  # which transformers would read instead
    complaints = merged_problems(tmp_path / "base", adapter, folder, merged_export("none"))
    assert complaints == ["model.safetensors was not there in the training"]


def test_a_table_that_is_larger_than_a_shard_is_a_shard_of_the_size_that_memory_is_planned_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_gemma.build(tmp_path / "base", "gemma4-e-text")
    config = json.loads((base / "config.json").read_text())
    size = model_size.of_folder(config, (base / "model.safetensors").stat().st_size)
    table = 2 * size.largest_table
    assert table > 2 * size.vocabulary * size.hidden
    for module in (merging, export_memory):
        monkeypatch.setattr(module, "SHARD_BYTES", table // 2)
    merge(base, None, tmp_path / "merged", "none")
    sizes = {}
    for path in (tmp_path / "merged").glob("*.safetensors"):
        weights = load_file(path)
        sizes[tuple(canonical_name(name) for name in weights)] = sum(2 * w.numel() for w in weights.values())
    assert max(sizes.values()) == sizes[("embed_tokens_per_layer",)] == table == export_memory.largest_shard_bytes(size)
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")


def test_vision_models_are_merged_with_either_order_of_names(tmp_path: Path, tiny: Path) -> None:
    """Checkpoints say language_model.model, modules model.language_model."""
    adapter = adapter_of(tiny, tmp_path / "adapter")
    expected = peft_merged(tiny, adapter)
    vision_base, tower = (
        tmp_path / "vision",
        {"vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": torch.ones(8)},
    )
    vision_base.mkdir()
    (vision_base / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": {"dtype": "float32"}}))
    weights = {f"language_model.{name}": w for name, w in load_file(tiny / "model.safetensors").items()} | tower
    save_file(weights, vision_base / "model.safetensors", metadata={"format": "pt"})
    factors = load_file(adapter / "adapter_model.safetensors")
    renamed = {n.replace("model.model.layers", "model.model.language_model.layers"): w for n, w in factors.items()}
    save_file(renamed, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    merge(vision_base, adapter, tmp_path / "merged", "none")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.equal(merged.pop(next(iter(tower))), torch.ones(8).bfloat16())
    assert_equal_weights({name.removeprefix("language_model."): w for name, w in merged.items()}, expected)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["text_config"] == {"dtype": "bfloat16"}


def test_an_adapter_of_another_model_is_refused(tmp_path: Path, tiny: Path) -> None:
    adapter = adapter_of(tiny, tmp_path / "adapter")
    other = tiny_gemma.build(tmp_path / "other", "gemma2")  # it has fewer layers
    with pytest.raises(StepError) as caught:
        merge(other, adapter, tmp_path / "merged", "none")
    assert caught.value.code == "bad_adapter"


@pytest.mark.parametrize(
    ("settings", "named_in_error"),
    [
        ({"lora_bias": True}, "lora_bias"),
        ({"target_modules": ["embed_tokens"]}, "embed_tokens"),
        ({"modules_to_save": ["norm"]}, "norm"),
    ],
)
def test_an_adapter_with_more_than_lora_factors_is_refused(
    tmp_path: Path, tiny: Path, settings: dict[str, Any], named_in_error: str
) -> None:
    adapter = adapter_of(tiny, tmp_path / "adapter", **settings)
    with pytest.raises(StepError, match=named_in_error) as caught:
        merge(tiny, adapter, tmp_path / "merged", "none")
    assert caught.value.code == "bad_adapter"


def test_a_fully_fine_tuned_model_is_stored_deterministically(tmp_path: Path, tiny: Path) -> None:
    merge(tiny, None, tmp_path / "merged", "none")
    trained = load_file(tiny / "model.safetensors")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert_equal_weights(merged, trained)
    merge(tiny, None, tmp_path / "again", "none")
    repeated = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(weight, merged[name]) for name, weight in repeated.items())
    merge(tmp_path / "merged", None, tmp_path / "bf16", "none")
    untouched = load_file(tmp_path / "bf16" / "model.safetensors")
    assert all(torch.equal(weight, merged[name]) for name, weight in untouched.items())


def test_stochastic_rounding_keeps_small_changes_on_average() -> None:
    torch.manual_seed(2)
    base = (torch.randn(300, 7000) * 0.05).bfloat16().float()
    change = base.abs() * torch.randn_like(base) * 2**-11  # mostly at most an eighth of half a unit in the last place
    nearest, rounded = (base + change).bfloat16().float(), stochastic_rounding.bfloat16("a", base + change)
    shares_kept = [
        float((result - base).mul(change).sum() / change.square().sum()) for result in (nearest, rounded.float())
    ]
    assert shares_kept[0] < 0.1
    assert shares_kept[1] == pytest.approx(1, abs=0.05)
    errors = (rounded.float() - (base + change)) / base.abs()
    assert errors.abs().max() <= 2**-7
    assert abs(errors.mean()) < 2**-15
    assert torch.equal(stochastic_rounding.bfloat16("a", base), base.bfloat16())
    assert not torch.equal(stochastic_rounding.bfloat16("b", base + change), rounded)


def test_weights_beyond_the_range_of_fp16_are_refused(tmp_path: Path, tiny: Path) -> None:
    merge(tiny, None, tmp_path / "half", "fp16")
    assert {w.dtype for w in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}
    weights = load_file(tiny / "model.safetensors")
    weights["model.norm.weight"][3] = 70_000
    large = Path(shutil.copytree(tiny, tmp_path / "large"))  # a copy, because all tests share the original
    save_file(weights, large / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StepError, match=r"model\.norm\.weight") as caught:
        merge(large, None, tmp_path / "merged", "fp16")
    assert caught.value.code == "not_in_fp16"


def test_infinite_bounds_of_a_base_model_are_no_overflow_in_fp16() -> None:
    """Keep those of Gemma 4's audio layers, which do not clip."""
    encode = merging.encoding_of("fp16")()
    bounds = torch.tensor([torch.inf, -torch.inf, 1.5])
    assert encode("input_max", bounds, False)["input_max"].tolist() == bounds.tolist()
    for value in (70_000.0, torch.nan):
        with pytest.raises(StepError, match="fp16 cannot hold"):
            encode("input_max", torch.tensor([torch.inf, value]), False)


def test_q4_weights_equal_bitsandbytes_and_load_directly(tmp_path: Path, tiny: Path) -> None:
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


def test_a_4_bit_base_model_is_refused(tmp_path: Path, tiny: Path) -> None:
    merge(tiny, None, tmp_path / "q4", "q4")
    with pytest.raises(StepError) as caught:
        merge(tmp_path / "q4", None, tmp_path / "merged", "none")
    assert caught.value.code == "base_model_quantized"


def test_a_file_written_tensor_by_tensor_is_valid_safetensors(tmp_path: Path) -> None:
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
    stored = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())


def test_tensors_are_aligned_after_ones_of_odd_length(tmp_path: Path) -> None:
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
    stored = load_file(tmp_path / "y.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())
    header = (tmp_path / "y.safetensors").read_bytes()
    entries = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    for name, tensor in tensors.items():
        assert entries[name]["data_offsets"][0] % tensor.element_size() == 0


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj"),
        ("language_model.model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj"),
        ("vision_tower.vision_model.post_layernorm.bias", "vision_tower.post_layernorm.bias"),
        ("model.vision_tower.post_layernorm.bias", "vision_tower.post_layernorm.bias"),
        ("language_model.lm_head.weight", "lm_head"),
        ("model.vision_embedder.patch_dense.weight", "embed_vision.patch_dense"),
        ("model.embed_vision.patch_dense.weight", "embed_vision.patch_dense"),
        ("model.embed_vision.embedding_projection.weight", "embed_vision.embedding_projection"),
        ("model.embed_vision.multimodal_embedder.embedding_projection.weight", "embed_vision.embedding_projection"),
    ],
)
def test_names_of_a_module_have_one_canonical_form(name: str, canonical: str) -> None:
    assert canonical_name(name) == canonical
