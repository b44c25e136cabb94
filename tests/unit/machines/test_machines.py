"""Choice of the machine for training, and the advice when none is enough."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from gemtune.errors import NeedsLargerMachine
from gemtune.families.configs.fields import DTYPES
from gemtune.machines import choice, model_size
from gemtune.machines.choice import MACHINES
from gemtune.machines.export_memory import largest_shard_bytes, memory_for_export
from gemtune.machines.memory import (
    CUDA_PROCESS_GIB,
    GIB,
    MOUNTS_GIB,
    MemoryNeed,
    TrainingLoad,
    memory_for_training,
    moment_bytes,
)
from gemtune.request import placement
from gemtune.request.exports import EXPORTS, Format
from gemtune.request.placement import load_of
from gemtune.request.training_config import TrainingConfig

BOTH = ("l4", "rtx-pro-6000")


def load(**training: Any) -> TrainingLoad:
    return load_of(TrainingConfig(base_model_id="google/gemma-3-1b-it", **training), "text")


def size(name: str) -> model_size.ModelSize:
    named_size = model_size.by_name(name)
    assert named_size is not None
    return named_size


def chosen(model: str, deployed: tuple[str, ...] = BOTH, machine: str | None = None, **training: Any) -> str | None:
    return choice.choose_machine(deployed, machine, size(model), load(**training))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("google/gemma-3-270m-it", 268_098_176),
        ("google/gemma-2b", 2_506_172_416),
        ("google/gemma-1.1-7b-it", 8_537_680_896),
        ("google/gemma-2-9b-it", 9_241_705_984),
        ("me/My-Gemma-3-12B-it-bnb-4bit", 12_187_325_040),
        ("google/medgemma-27b-text-it", 27_432_406_640),
        ("google/gemma-3n-E4B-it", 7_849_978_192),
        ("google/gemma-4-31B-it", 31_273_086_512),
    ],
)
def test_a_size_is_read_from_a_name(name: str, parameters: int) -> None:
    assert size(name).parameters == parameters


@pytest.mark.parametrize(
    "name", ["me/my-model", "google/gemma-5-9b", "google/gemma-3-270b", "google/paligemma-3b", "x/gemma-2-2b.5"]
)
def test_an_unknown_name_has_no_size(name: str) -> None:
    assert model_size.by_name(name) is None


def test_a_job_gets_the_first_machine_that_it_fits_on() -> None:
    assert chosen("google/gemma-3-1b-it") == "l4"
    assert chosen("google/gemma-3-27b-it", method="QLoRA") == "rtx-pro-6000"
    assert chosen("google/gemma-3-1b-it", ("rtx-pro-6000", "l4")) == "rtx-pro-6000"
    assert chosen("google/gemma-3-270m-it", ("cpu",), max_seq_length=512) == "cpu"


def test_a_requested_machine_is_chosen_if_the_job_fits() -> None:
    assert chosen("google/gemma-3-1b-it", machine="rtx-pro-6000") == "rtx-pro-6000"
    with pytest.raises(NeedsLargerMachine, match=r"needs 31\.6 GiB of GPU memory \(machine l4 has 22\)$") as caught:
        chosen("google/gemma-2-9b-it", machine="l4")
    assert "machine rtx-pro-6000" in str(caught.value.hint)


def test_the_refusal_of_a_job_that_fits_nowhere_advises_changes() -> None:
    with pytest.raises(NeedsLargerMachine) as caught:
        chosen("google/gemma-2-9b-it", ("l4",))
    assert "method QLoRA" in str(caught.value.hint)
    assert "deploy machine rtx-pro-6000" in str(caught.value.hint)
    with pytest.raises(NeedsLargerMachine) as caught:
        chosen("google/gemma-3-27b-it", method="Full")
    assert caught.value.code == "needs_larger_machine"
    assert "method LoRA" in str(caught.value.hint)


def test_the_refusal_says_which_memory_is_missing() -> None:
    """Name the largest machine, wherever the deployment lists it."""
    need = MemoryNeed(gpu=90.0, host_with_gpu=100.0, host_without_gpu=40.0)
    for machines, missing in (
        (("l4", "rtx-pro-6000", "cpu"), "100.0 GiB of main memory (machine rtx-pro-6000 has 80)"),
        (("cpu",), "40.0 GiB of main memory (machine cpu has 32)"),
        (("cpu", "l4"), "90.0 GiB of GPU memory (machine l4 has 22) and 100.0 GiB of main memory (machine l4 has 32)"),
    ):
        assert choice._lacking(machines, need) == f"it needs {missing}"


def test_the_machine_for_a_model_of_unknown_size_is_chosen_later() -> None:
    assert choice.choose_machine(BOTH, None, None, load()) is None
    assert choice.choose_machine(BOTH, "l4", None, load()) == "l4"


def test_a_workstation_is_never_refused() -> None:
    assert choice.choose_machine(("local",), None, size("gemma-3-27b"), load(method="Full")) == "local"


@pytest.mark.parametrize("change", [{"batch_size": 8}, {"max_seq_length": 4096}, {"method": "Full"}, {"lora_rank": 64}])
def test_larger_settings_need_more_memory(change: dict[str, Any]) -> None:
    plain, more = (memory_for_training(size("gemma-3-1b"), load(**training)) for training in ({}, change))
    assert more.gpu > plain.gpu
    assert more.host_without_gpu > plain.host_without_gpu


@pytest.mark.parametrize(
    ("training", "gpu", "host"),
    [
        ({"new_tokens": ["<a>"]}, 6, 12),  # two copies of the embedding and a gradient
        ({"train_embeddings": True}, 16 + 6, 16 + 6 + 12),  # trained in 32 bits, and in a checkpoint
        ({"train_embeddings": True, "new_tokens": ["<a>"]}, 22, 34),
        ({"method": "Full", "new_tokens": ["<a>"]}, None, None),
    ],
)
def test_trained_embeddings_count(training: dict[str, Any], gpu: int | None, host: int | None) -> None:
    model, same = size("google/gemma-3-1b-it"), {"method": training.get("method", "LoRA")}
    plain, more = (memory_for_training(model, load(**fields)) for fields in (same, training))
    if gpu is None:  # all weights are counted already
        assert more == plain
        return
    assert more.gpu - plain.gpu == pytest.approx(gpu * model.vocabulary * model.hidden / GIB)
    assert more.host_without_gpu - plain.host_without_gpu == pytest.approx(host * model.vocabulary * model.hidden / GIB)


def test_four_bit_weights_need_less_of_the_gpu_and_no_weights_are_in_main_memory() -> None:
    lora, qlora = (memory_for_training(size("gemma-2-9b"), load(method=method)) for method in ("LoRA", "QLoRA"))
    assert qlora.gpu < lora.gpu - 9
    assert qlora.host_with_gpu == lora.host_with_gpu < size("gemma-2-9b").file_bytes / GIB / 2


def test_what_mounts_and_moments_in_8_bits_make_possible() -> None:
    """Calculate it: no GPU has confirmed it."""
    for model, length in (("google/gemma-3-27b-it", 2048), ("google/gemma-4-31B-it", 1024)):
        assert chosen(model, method="QLoRA", batch_size=1, max_seq_length=length) == "l4"
    assert chosen("google/gemma-3-4b-it", method="Full") == "rtx-pro-6000"
    with pytest.raises(NeedsLargerMachine, match=r"GiB of GPU memory \(machine rtx-pro-6000 has 94\)$"):
        chosen("google/gemma-4-E4B-it", method="Full")


def test_a_checkpoint_of_all_weights_is_on_the_disk_in_two_parts() -> None:
    model = size("gemma-3-4b")
    full = load(method="Full")
    on_gpu = memory_for_training(model, full).host_with_gpu - CUDA_PROCESS_GIB - MOUNTS_GIB
    assert on_gpu == pytest.approx(4 * model.parameters / GIB)  # more than its moments
    assert moment_bytes(model, full, on_gpu=True) < 4 * model.parameters < moment_bytes(model, full, on_gpu=False)


def test_the_size_of_a_model_is_read_from_its_config() -> None:
    config = {
        "dtype": "float32",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "vocab_size": 512,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
    }
    model = model_size.of_folder(config, 400_000)
    assert (model.parameters, model.file_bytes, model.layers, model.attention, model.key_value) == (
        100_000,
        400_000,
        2,
        64,
        32,
    )
    nested = model_size.of_folder(
        {"text_config": config | {"intermediate_size": [128, 256]}, "dtype": "bfloat16"}, 400_000
    )
    assert (nested.parameters, nested.intermediate) == (200_000, 256)


def test_a_size_has_transformers_defaults_where_a_published_config_omits_fields() -> None:
    """Google's config.json of Gemma 3 4B has no heads and no vocabulary."""
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 34}
    published = size("gemma-3-4b")
    config = {"model_type": "gemma3", "dtype": "bfloat16", "text_config": text}
    model = model_size.of_folder(config, published.file_bytes)
    assert (model.shapes, model.vocabulary) == (published.shapes, published.vocabulary)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_size_of_a_parameter_is_that_of_every_type_of_weights(dtype: str) -> None:
    assert model_size.of_folder({"dtype": dtype}, 800).bytes_per_parameter * 8 == int(dtype.lstrip("bfloat"))


@pytest.mark.parametrize(
    "config", [{}, {"text_config": 3}, {"hidden_size": "x", "num_hidden_layers": -1}, {"head_dim": None}]
)
def test_a_config_without_sizes_counts_as_the_next_larger_known_model(config: dict[str, Any]) -> None:
    model = model_size.of_folder(json.loads(json.dumps(config)), 4 * 900_000_000)
    assert (model.parameters, model.layers) == (900_000_000, size("gemma-3-1b").layers)


def test_the_machines_are_within_the_limits_of_cloud_run() -> None:
    for machine in MACHINES.values():
        if machine.gpu == "nvidia-rtx-pro-6000":
            assert machine.cpus >= 20
            assert machine.memory_gib >= 80
        else:
            assert 4 <= machine.cpus <= 8
            assert 16 <= machine.memory_gib <= 4 * machine.cpus


def export_need(name: str, export_format: Format, rank: int = 16) -> float:
    return memory_for_export(size(name), "LoRA", rank, EXPORTS[export_format].local_bytes)


@pytest.mark.parametrize(
    ("name", "export_format", "machine"),
    [
        ("gemma-3-4b", "gguf", None),
        ("gemma-3-27b", "adapter", None),
        ("gemma-4-31b", "merged", None),
        ("gemma-2-9b", "gguf", "rtx-pro-6000"),
    ],
)
def test_an_export_gets_a_machine_with_room_for_its_files(
    name: str, export_format: Format, machine: str | None
) -> None:
    need = export_need(name, export_format)
    assert choice.choose_export_machine(BOTH, need) == machine
    assert choice.choose_export_machine(("local",), need) is None


def test_the_refusal_of_an_export_without_room_advises_changes() -> None:
    with pytest.raises(NeedsLargerMachine, match="the machine for exports has 32") as caught:
        choice.choose_export_machine(("l4",), export_need("gemma-2-9b", "gguf"))
    assert str(caught.value.hint).endswith("or deploy machine rtx-pro-6000")
    with pytest.raises(NeedsLargerMachine) as caught:
        choice.choose_export_machine(BOTH, export_need("gemma-3-27b", "gguf"))
    assert str(caught.value.hint) == "use format adapter or merged, or a smaller base model"


def test_an_export_needs_room_for_an_embedding_that_was_trained_whole() -> None:
    model = size("gemma-3-27b")
    plain, whole = (memory_for_export(model, "LoRA", 16, 0.0, whole_embedding=trained) for trained in (False, True))
    embedding = 4 * model.vocabulary * model.hidden / GIB
    assert embedding < whole - plain < 2.5 * embedding
    facts: Any = SimpleNamespace(size=size("gemma-7b"), deployment=SimpleNamespace(machines=BOTH))
    for trained, machine in ((False, None), (True, "rtx-pro-6000")):
        config = TrainingConfig.model_validate({"base_model_id": "a/b", "train_embeddings": trained})
        export_config = SimpleNamespace(format="gguf", quantization="q8_0")
        spec: Any = SimpleNamespace(training_config=config, export_config=export_config)
        assert placement.export_machine(spec, facts) == machine


@pytest.mark.parametrize("name", ["gemma-4-e4b", "gemma-4-e2b", "gemma-3n-e4b"])
def test_an_export_needs_room_for_a_table_that_is_larger_than_a_shard(name: str) -> None:
    model = size(name)
    table = 2 * model.vocabulary * model.layers * model.per_layer_input
    assert largest_shard_bytes(model) == max(4 * GIB, table)
    copied = table / GIB  # rounded, before it is written
    assert memory_for_export(model, "LoRA", 16, 0.0, fp16=True) > largest_shard_bytes(model) / GIB + copied + 3
    assert memory_for_export(model, "LoRA", 16, 0.0) < largest_shard_bytes(model) / GIB + copied + 3
    adapter = memory_for_export(model, "LoRA", 16, 0.0) - memory_for_export(model, "Full", 16, 0.0)
    assert adapter < 0  # which is rounded too


def test_an_export_needs_room_for_an_adapter_a_shard_and_gguf_files() -> None:
    model = size("gemma-3-4b")
    assert export_need("gemma-3-4b", "adapter") == export_need("gemma-3-4b", "merged") < model.file_bytes / GIB + 3
    converted = 3.1 * model.parameters + 4 * model.vocabulary * model.hidden
    adapter = 4 * model.lora_parameters(16)
    assert export_need("gemma-3-4b", "gguf") == pytest.approx((adapter + converted) / GIB + 3.5)
    more = export_need("gemma-3-4b", "adapter", 64) - export_need("gemma-3-4b", "adapter", 16)
    assert more == pytest.approx(4 * model.lora_parameters(48) / GIB)


def test_all_pictures_of_a_training_step_take_memory() -> None:
    """Count the pictures of all GRPO completions and of both DPO answers."""
    grpo = {"algorithm": "grpo", "num_generations": 8, "rewards": [{"type": "exact_answer"}]}
    configs: dict[str, dict[str, Any]] = {
        "LoRA": {"batch_size": 8},
        "DPO": {"batch_size": 32, "method": "RL", "rl_config": {"algorithm": "dpo"}},
        "GRPO": {"batch_size": 8, "gradient_accumulation_steps": 8, "method": "RL", "rl_config": grpo},
    }
    more = {}
    for name, training in configs.items():
        config = TrainingConfig(base_model_id="google/gemma-3-4b-it", **training)
        seeing, blind = (
            memory_for_training(size("google/gemma-3-4b-it"), load_of(config, modality)).gpu
            for modality in ("vision", "text")
        )
        more[name] = seeing - blind
    assert more == {"LoRA": pytest.approx(2), "DPO": pytest.approx(6.4), "GRPO": pytest.approx(6.4)}


def test_a_config_with_too_many_layers_is_read_in_no_time() -> None:
    """Read layer counts whose layers could not be visited one by one in years."""
    config = {"model_type": "gemma3_text", "hidden_size": 640, "num_attention_heads": 4, "intermediate_size": 2048}
    for layers in (10**12, 10**299):
        assert model_size.of_folder(config | {"num_hidden_layers": layers}, 10**9) == model_size.of_folder({}, 10**9)


def test_grpo_keeps_the_completions_of_a_whole_train_step_and_dpo_two_sequences_per_row() -> None:
    batches = {"batch_size": 8, "gradient_accumulation_steps": 4}
    rewards = [{"type": "length", "at_most": 9}]
    grpo = load(method="RL", rl_config={"algorithm": "grpo", "rewards": rewards}, **batches)
    dpo = load(method="RL", rl_config={"algorithm": "dpo"}, **batches)
    assert (grpo.sampled_completions, grpo.sequences_per_row) == (32, 1)
    assert (dpo.sampled_completions, dpo.sequences_per_row) == (0, 2)


def test_layers_that_differ_are_read_as_transformers_numbers_them() -> None:
    """Transformers pads the numbers with zeros.

    The sixth layer is "05" of 12 layers and "5" of 6.
    """
    shared = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
    shapes = set()
    for layers, key in ((6, "5"), (12, "05"), (120, "005")):
        text = shared | {
            "model_type": "gemma4_text",
            "head_dim": 32,
            "num_hidden_layers": layers,
            "per_layer_config": {key: {"head_dim": 512}},
        }
        computed = model_size.of_folder(text, 1_000_000)
        assert sorted(shape.count for shape in computed.shapes) == [1, layers - 1]
        shapes.add(max(shape.attention for shape in computed.shapes))
    assert shapes == {2 * 512}
