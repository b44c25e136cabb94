"""Reference: recorded by training, and what exports are compared with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from tokenizers import Tokenizer

from gemtune.jobs.status import Step
from tests import tiny_gemma
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_export import export_folder
from trainer.certificate import reference
from trainer.certificate.held_out_rows import MEDIA, MEDIA_TOKENS, POSITIONS, ROW_POSITIONS, ROWS, TOKENS, collect
from trainer.certificate.reference import RECORDED
from trainer.export.trained_weights import REFERENCE
from trainer.rows.encoded import UNTRAINED
from trainer.rows.prepared import AUDIO, COLUMNS, PICTURES, TokenFile
from trainer.store import manifest


@pytest.mark.parametrize("method", ["LoRA", "QLoRA", "Full"])
def test_an_export_is_compared_with_what_was_recorded_in_training(bench_of: Callable[..., Bench], method: str) -> None:
    bench = bench_of(method=method, max_steps=2)
    export_folder(bench.to(Step.TRAIN))
    parity = bench.job.certificate
    assert parity is not None
    assert parity.reference == RECORDED
    assert (parity.mean_kl < 1e-6) is (method != "QLoRA")  # the adapter is for the base model in full precision
    assert bool(parity.differences) is (method == "QLoRA")
    recorded = reference.read(folder_of(bench))
    plain = hidden_states(bench, recorded.rows.rows[0].input_ids, recorded.rows.rows[0].positions, adapted=True)
    if method != "QLoRA":
        torch.testing.assert_close(recorded.states[0].hidden, plain, atol=2e-4, rtol=1e-4)
    if method == "LoRA":
        base = hidden_states(bench, recorded.rows.rows[0].input_ids, recorded.rows.rows[0].positions, adapted=False)
        torch.testing.assert_close(recorded.states[0].base, base, atol=2e-4, rtol=1e-4)


def folder_of(bench: Bench) -> Path:
    return Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/{REFERENCE}/1"))


def hidden_states(bench: Bench, tokens: list[int], positions: list[int], *, adapted: bool) -> torch.Tensor:
    """Return the last hidden states by transformers and PEFT alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = Path(bench.job.adapter_path or "")
    whole = bench.training.get("method") == "Full"
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder if whole else bench.base, dtype=torch.float32, attn_implementation="eager"
    )
    if adapted and not whole:
        model = PeftModel.from_pretrained(model, folder).get_base_model()
    with torch.no_grad():
        states: torch.Tensor = model.eval().model(input_ids=torch.tensor([tokens])).last_hidden_state
    return states[0, positions]


def test_a_record_of_another_model_is_noticed(bench_of: Callable[..., Bench], tmp_path: Path) -> None:
    """The record counts, whatever the files of the training say."""
    bench = bench_of(max_steps=2).to(Step.TRAIN)
    prefix = f"jobs/{bench.job_id}/{REFERENCE}/1"
    changed = Path(shutil.copytree(folder_of(bench), tmp_path / "changed"))
    recorded = reference.read(changed)
    shutil.rmtree(changed)
    others = [
        reference.RowStates(row.hidden + 3 * torch.randn_like(row.hidden), row.base, row.base_loss, row.base_choice)
        for row in recorded.states
    ]
    reference.write(reference.Reference(recorded.rows, others, recorded.answers, recorded.origin), changed)
    manifest.publish(bench.services.buckets.export, changed, prefix)
    with pytest.raises(Exception, match="mean KL") as caught:
        bench.run(Step.EXPORT)
    assert getattr(caught.value, "code", None) == "export_loses_too_much"


def prepared_rows(folder: Path, lengths: list[int], answers: int = 1) -> Path:
    """Write held-out rows of these lengths, whose later halves are trained."""
    folder.mkdir(exist_ok=True)
    with TokenFile(folder / "eval.parquet") as file:
        for index, length in enumerate(lengths):
            ids = [2, *((index + step) % 200 + 20 for step in range(length - 1))]
            labels = [-100] * (length // 2) + ids[length // 2 :]
            file.add({"input_ids": ids, "labels": labels})
    return folder


def test_rows_of_every_length_are_compared_up_to_a_limit(tmp_path: Path, tiny: Path) -> None:
    short, long = [8] * 300, [60] * 4 + [1000] * 2
    chosen = [row for row in collect(prepared_rows(tmp_path / "p", short + long), tiny).rows if not row.probe]
    assert len(chosen) == ROWS
    assert {len(row.input_ids) for row in chosen} == {8, 60, 256}
    assert sum(len(row.positions) for row in chosen) <= POSITIONS
    assert [row.whole for row in chosen if len(row.input_ids) == 256] == [False, False]
    assert all(row.whole for row in chosen if len(row.input_ids) == 8)
    assert chosen == [row for row in collect(tmp_path / "p", tiny).rows if not row.probe]


@pytest.mark.parametrize("column", [PICTURES, AUDIO])
def test_rows_with_pictures_or_audio_are_compared_whole(column: str, tmp_path: Path, tiny: Path) -> None:
    """Leave out those with more tokens or media than are compared."""
    media = [[0], [], [1, 2], list(range(MEDIA)), *([number] for number in range(MEDIA + 4))]
    with TokenFile(tmp_path / "eval.parquet", (*COLUMNS, column)) as file:
        for number, numbers in enumerate(media):
            ids = [2, *[30 + number] * (400 if number else MEDIA_TOKENS)]
            file.add({"input_ids": ids, "labels": [-100] * (len(ids) - 100) + ids[-100:], column: numbers})
    collected = collect(tmp_path, tiny)
    rows = [row for row in collected.rows if not row.probe]
    assert [row.media for row in rows[:-1]] == [[1, 2], *([number] for number in range(MEDIA - 2))]
    assert all(len(row.input_ids) == 401 for row in rows[:-1])
    assert all(len(row.positions) == ROW_POSITIONS and not row.whole for row in rows)
    assert (rows[-1].media, len(rows[-1].input_ids)) == ([], TOKENS)
    assert [row for row in collected.texts().rows if not row.probe] == rows[-1:]
    assert len(collected.texts().prompts) == len(collected.prompts)


def test_of_preferences_the_chosen_answers_are_compared(tmp_path: Path, tiny: Path) -> None:
    with TokenFile(tmp_path / "eval.parquet", ("prompt_ids", "chosen_ids", "rejected_ids")) as file:
        file.add({"prompt_ids": [2, 30, 31], "chosen_ids": [40, 41], "rejected_ids": [50]})
    collected = collect(tmp_path, tiny)
    assert collected.source == "held-out rows"
    assert (collected.rows[0].input_ids, collected.rows[0].positions) == ([2, 30, 31, 40, 41], [2, 3])


def test_probes_ask_for_tools_and_thinking_only_where_the_template_reads_them(tmp_path: Path) -> None:
    base = tiny_gemma.build(tmp_path / "base")
    names = {prompt.name for prompt in collect(tmp_path, base).prompts}
    assert {
        "a system message",
        "long runs of blanks",
        "special tokens in a text",
        "an empty answer",
        "a program",
    } <= names
    assert names.isdisjoint({"tools", "a question with tools", "thinking", "a thought"})
    template = base / "chat_template.jinja"
    tools = "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% if enable_thinking %}<think>{% endif %}"
    template.write_text(template.read_text().replace("{{ bos_token }}", tools, 1))
    prompts = {prompt.name: prompt for prompt in collect(tmp_path, base).prompts}
    assert prompts["a question with tools"].options["tools"][0]["function"]["name"] == "get_weather"
    assert prompts["thinking"].options == {"enable_thinking": True}


def test_a_probe_has_a_thought_where_the_template_shows_it(tmp_path: Path) -> None:
    base = tiny_gemma.build(tmp_path / "base", "gemma4-e-text")
    template = Path(trl.__file__).parent / "chat_templates" / "gemma4_v5.jinja"
    (base / "chat_template.jinja").write_text(template.read_text())
    collected = collect(tmp_path, base)
    assert "a thought" in {prompt.name for prompt in collected.prompts}
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    answers = [
        tokenizer.decode([label for label in row.labels if label != UNTRAINED], skip_special_tokens=False)
        for row in collected.rows
        if row.probe
    ]
    assert any(answer.startswith("<|channel>thought") for answer in answers), answers


def test_a_reference_is_read_as_it_was_written(tmp_path: Path, tiny: Path) -> None:
    collected = collect(prepared_rows(tmp_path / "p", [8, 12]), tiny)
    states = [
        reference.RowStates(torch.randn(len(row.positions), 4), None, torch.zeros(len(row.positions)), None)
        for row in collected.rows
    ]
    pixels = {"pixel_values": torch.randn(2, 3, 4), "mm_token_type_ids": torch.tensor([[0, 1]])}
    states[10] = replace(states[10], base=torch.randn(3, 4), base_choice=torch.tensor([1]), inputs=pixels)
    reference.write(reference.Reference(collected, states, [[5]], RECORDED), tmp_path / "stored")
    stored = reference.read(tmp_path / "stored")
    assert stored.rows == collected
    assert (stored.answers, stored.origin) == ([[5]], RECORDED)
    torch.testing.assert_close(stored.states[1].hidden, states[1].hidden)
    assert stored.states[0].base is None
    assert stored.states[0].inputs == {}
    for part in ("base", "base_choice"):
        torch.testing.assert_close(getattr(stored.states[10], part), getattr(states[10], part))
    torch.testing.assert_close(stored.states[10].inputs, pixels)
    assert json.loads((tmp_path / "stored" / "rows.json").read_text())["rows"]["source"] == "held-out rows"
