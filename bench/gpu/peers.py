"""Training of one peer of `bench.gpu`.

`python -m bench.gpu.peers PEER SHAPE MODEL STEPS ROWS`, which speaks to its parent as `bench.train_peers` does. Peers
are plain scripts of their libraries, with the adapter on the same layers as this project's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.train_peers import PREPARED, Peer, arguments_of, gemtune, seed, train
from bench.train_rows import Rows, Shape

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import Trainer


def main() -> None:
    """Train with the peer of the command line."""
    if sys.argv[1].startswith(UNSLOTH):
        import unsloth  # noqa: F401  # before the packages that it patches
    train(PEERS)


def _trl(folder: Path, shape: Shape, steps: int, rows: Rows, *, four_bits: bool, liger: bool) -> Trainer:
    """Return the trainer of a plain TRL script."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        **arguments_of(shape, steps), max_length=None, dataset_kwargs=PREPARED, use_liger_kernel=liger
    )
    return SFTTrainer(
        model=_peft(folder, four_bits=four_bits),
        args=arguments,
        processing_class=AutoTokenizer.from_pretrained(folder),
        train_dataset=Dataset.from_list(rows),
    )


def _peft(folder: Path, *, four_bits: bool) -> PeftModel:
    """Load the model with transformers and add an adapter with PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from trainer.base_model import folder_contents
    from trainer.base_model.four_bits import skipped_modules
    from trainer.model import adapted_layers

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=skipped_modules(folder_contents.family_of(folder)),
    )
    seed()
    base = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16,
        attn_implementation="sdpa",
        quantization_config=quantization if four_bits else None,
        device_map="cuda" if torch.cuda.is_available() else None,
    )
    lora = LoraConfig(
        r=16,
        lora_alpha=16,
        lora_dropout=0.0,
        target_modules=adapted_layers.target_modules(base, vision_tower=False),
        target_parameters=adapted_layers.target_parameters(base),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, lora)


def _unsloth(folder: Path, shape: Shape, steps: int, rows: Rows, *, four_bits: bool) -> Trainer:
    """Return the trainer of a plain unsloth script."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    from unsloth import FastLanguageModel

    from trainer.model import adapted_layers

    seed()
    model, tokenizer = FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=shape.most, dtype=torch.bfloat16, load_in_4bit=four_bits
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=16,
        lora_alpha=16,
        lora_dropout=0.0,
        target_modules=adapted_layers.target_modules(model, vision_tower=False),
        random_state=0,
        use_gradient_checkpointing="unsloth",
    )
    arguments = SFTConfig(**arguments_of(shape, steps), max_length=None, dataset_kwargs=PREPARED)
    return SFTTrainer(model=model, args=arguments, processing_class=tokenizer, train_dataset=Dataset.from_list(rows))


OURS, TRL_LIGER, TRL, UNSLOTH = "gemtune", "trl with Liger", "trl", "unsloth"


def name_of(library: str, method: str) -> str:
    """Return the name of a peer, as the command line has it."""
    return f"{library}, {method}"


def _with(function: Any, **settings: Any) -> Peer:
    return lambda folder, shape, steps, rows: function(folder, shape, steps, rows, **settings)


PEERS: dict[str, Peer] = {
    name_of(library, method): peer
    for method in ("LoRA", "QLoRA")
    for library, peer in {
        OURS: _with(gemtune, method=method),
        TRL_LIGER: _with(_trl, four_bits=method == "QLoRA", liger=True),
        TRL: _with(_trl, four_bits=method == "QLoRA", liger=False),
        UNSLOTH: _with(_unsloth, four_bits=method == "QLoRA"),
    }.items()
}


if __name__ == "__main__":
    main()
