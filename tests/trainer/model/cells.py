"""Kinds of Gemma and methods: each pair is a cell that has its tests.

Kinds that see have cells of rows with pictures, too.
A plain program of transformers, PEFT and TRL stands beside each job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gemtune.jobs.status import Step
from gemtune.request.spec import Spec
from tests import preference_rows, rows
from tests.trainer.conftest import Bench
from tests.trainer.training import picture_rows, plain_trl
from tests.trainer.training.rl_trainers import prepared_folder
from trainer.base_model import folder_contents, four_bits
from trainer.model.engines import huggingface
from trainer.rows.prepared import read_tokens

# One tiny model for each kind of layers that models of a generation have, with all the parts of the real ones.
KINDS: Mapping[str, str] = {
    "1": "gemma",
    "2": "gemma2",
    "3": "gemma3",
    "3 with vision": "gemma3-vision",
    "3n": "gemma3n-text",
    "4 E": "gemma4-e",
    "4 dense": "gemma4-dense",
    "4 mixture": "gemma4-moe",
    "4 unified": "gemma4-unified",
}
# Kinds that see pictures.
SEEING: Mapping[str, str] = {
    "3": "gemma3-vision",
    "3n": "gemma3n",
    "4 E": "gemma4-e",
    "4 dense": "gemma4-dense",
    "4 mixture": "gemma4-moe",
    "4 unified": "gemma4-unified",
}
# Shapes with the layers of a kind, and other parts: these have tests of their own.
OF_A_KIND: Mapping[str, str] = {
    "gemma3n": "3n",
    "gemma4-e-text": "4 E",
    "gemma4-dense-text": "4 dense",
    "gemma4-moe-text": "4 mixture",
    "gemma4-unified-text": "4 unified",
}
METHODS = ("LoRA", "QLoRA", "Full", "DPO", "GRPO")
STEPS, BATCH, RATE = 2, 4, 1e-3
CHANGED = {"learning_rate": RATE, "max_steps": STEPS}  # of the trainings of `plain_trl`
# Numbers of the pictures of each row of a vision job. TRL's GRPO takes no prompts without beside prompts with pictures.
SHOWN = ((0,), (1, 2), (), (3,))
PROMPTED = ((0,), (1, 2), (3,), (5,), (4,), (7,))
HELD_OUT = ((101, 102),)


def job(home: Path, base: Path, method: str, modality: str) -> Bench:
    """Return a prepared job of a cell."""
    training: dict[str, Any] = {"method": method, "batch_size": BATCH, "max_steps": STEPS, "lora_dropout": 0.0}
    training = {"DPO": plain_trl.DPO, "GRPO": plain_trl.GRPO}.get(method, training) | CHANGED
    bench = Bench(home, base, save_steps=100, **training)
    bench.fields["modality"] = modality
    train, held_out = (_picture_rows if modality == "vision" else _text_rows)(method)
    bench.put("train", train)
    bench.put("eval", held_out)
    bench.run(Step.PREPARE)
    return bench


def _text_rows(method: str) -> tuple[list[Any], list[Any]]:
    """Return train and held-out rows."""
    return {
        "DPO": (plain_trl.PAIRS, preference_rows.pairs(rows.held_out_rows(2))),
        "GRPO": (preference_rows.prompts(rows.train_rows(12)), preference_rows.prompts(rows.held_out_rows(2))),
    }.get(method, (rows.train_rows(8), rows.held_out_rows(2)))


def _picture_rows(method: str) -> tuple[list[Any], list[Any]]:
    """Return train and held-out rows with pictures."""
    train = PROMPTED if method == "GRPO" else SHOWN
    make = {"DPO": picture_rows.pair, "GRPO": picture_rows.question}.get(method, picture_rows.chat)
    return [make(*numbers) for numbers in train], [make(*numbers) for numbers in HELD_OUT]


def prepared_rows(bench: Bench, split: str = "train") -> list[dict[str, Any]]:
    """Return the tokens of a job's rows.

    Each has the numbers of its pictures as `shown`.
    """
    tokens = list(read_tokens(prepared_folder(bench) / f"{split}.parquet"))
    if not sees(bench):
        return tokens
    shown = SHOWN if split == "train" else HELD_OUT
    return [row | {"shown": numbers} for row, numbers in zip(tokens, shown, strict=True)]


def sees(bench: Bench) -> bool:
    return bool(bench.fields["modality"] == "vision")


def inputs_of(bench: Bench, input_ids: torch.Tensor, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the inputs of the plain model.

    input_ids: (rows, positions). numbers: of the pictures of all rows, in order.
    """
    return picture_rows.model_inputs(bench.base, input_ids, numbers) if sees(bench) else {"input_ids": input_ids}


def plain_training(bench: Bench, method: str, output: Path) -> Any:
    """Train what a job trains with the libraries alone; return the Trainer."""
    from datasets import Dataset

    if method not in ("DPO", "GRPO"):
        return plain_sft(bench, method, output)
    start = first_adapter(bench, output / "first")
    if method == "DPO":
        trainer = plain_trl.dpo_trainer(bench, start, output, CHANGED)
        # TRL would train the line break after the last turn too, with every template.
        trainer.train_dataset = prepared_rows(bench)
        trainer.args.remove_unused_columns = False
        trainer.data_collator = partial(_collate_pairs, bench)
    elif sees(bench):
        question = [{"role": "user", "content": rows.QUESTION}]
        images = [[picture_rows.picture(number) for number in numbers] for numbers in PROMPTED]
        prompts = Dataset.from_list([{"prompt": question, "images": each} for each in images])
        processor = picture_rows.processor_of(bench.base)
        soft = processor.tokenizer.image_token_id
        trainer = plain_trl.grpo_trainer(bench, start, output, prompts, processor, CHANGED, suppressed=soft)
    else:
        return plain_trl.plain_grpo(bench, start, output, **CHANGED)
    trainer.train()
    return trainer


def _collate_pairs(bench: Bench, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return TRL's batch of pairs, with pictures."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    batch: dict[str, Any] = DataCollatorForPreference(pad_token_id=0)(pairs)
    numbers = [number for pair in pairs for number in pair.get("shown", ())]
    return batch | inputs_of(bench, batch["input_ids"], [*numbers, *numbers])


def spec_of(bench: Bench) -> Spec:
    return Spec.model_validate_json(bench.services.buckets.config.read(bench.job.spec_name))


def plain_model(base: Path, method: str, modality: str) -> Any:
    """Return the base model as transformers loads it to train it."""
    from transformers import AutoModelForCausalLM

    more = {}
    if method == "QLoRA":
        family = folder_contents.family_of(base)
        more["quantization_config"] = four_bits.quantization_config(torch.float32, family)
    attention = plain_trl.ATTENTION[modality]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation=attention, **more)
    four_bits.keep_unpacked(model, uneven_only=False)
    return model


def first_adapter(bench: Bench, folder: Path) -> Path:
    """Write the adapter with which a job begins."""
    from transformers import set_seed

    spec = spec_of(bench)
    set_seed(spec.training_config.seed)
    huggingface.save(huggingface.load(bench.base, spec).model, folder)
    return folder


def plain_sft(bench: Bench, method: str, output: Path) -> Any:
    """Train a job's rows one by one, with transformers and PEFT alone.

    Returns the Trainer.
    """
    from peft import PeftModel
    from transformers import Trainer

    class OneByOne(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **more: Any) -> torch.Tensor:
            total, count = torch.zeros(()), 0
            for row in inputs["rows"]:
                inputs_of_row = inputs_of(bench, torch.tensor([row["input_ids"]]), row.get("shown", ()))
                logits = model(**inputs_of_row).logits[0, :-1]
                targets = torch.tensor(row["labels"][1:])
                total = total + torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
                count += int((targets != -100).sum())
            return total / count

    model = plain_model(bench.base, method, bench.fields["modality"])
    if method == "Full":
        trained = {
            n for n, w in huggingface.load(bench.base, spec_of(bench)).model.named_parameters() if w.requires_grad
        }
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in trained)
    else:
        adapter = first_adapter(bench, output / "first")
        model = PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    trainer = OneByOne(
        model=model,
        args=arguments(output),
        train_dataset=prepared_rows(bench),
        data_collator=lambda batch: {"rows": batch},
    )
    trainer.train()
    return trainer


def arguments(output: Path) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(output),
        learning_rate=RATE,
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        logging_steps=1,
        seed=42,
        data_seed=42,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
