"""Answers of a model without and with its adapter, for the demo.

`python -m examples.sample_answers BASE ADAPTER QUESTION…` prints JSON: `{"before": [...], "after": [...]}`.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

MAX_NEW_TOKENS = 32


def answers(model: PeftModel, tokenizer: PreTrainedTokenizerBase, questions: list[str]) -> list[str]:
    """Return the model's answer to each question, generated greedily."""
    texts = []
    for question in questions:
        turn = [{"role": "user", "content": question}]
        inputs = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        assert isinstance(inputs, Mapping)
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        answer = output[0][inputs["input_ids"].shape[1] :]
        texts.append(str(tokenizer.decode(answer, skip_special_tokens=True)).strip())
    return texts


def main(base: str, adapter: str, *questions: str) -> None:
    """Print the answers without the adapter and with it."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on a CPU it warns about a package that is not needed
    warnings.simplefilter("ignore", FutureWarning)  # PEFT still calls transformers by names that are deprecated
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), adapter).eval()
    after = answers(model, tokenizer, list(questions))
    with model.disable_adapter():
        before = answers(model, tokenizer, list(questions))
    print(json.dumps({"before": before, "after": after}))


if __name__ == "__main__":
    main(*sys.argv[1:])
