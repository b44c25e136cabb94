"""RL jobs through a running service: GRPO and DPO, and mistaken requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests import preference_rows, rows, tiny_gemma
from tests.e2e.service import Service
from tests.e2e.test_ways_in import MOVES, loads_in_peft

HAS_AN_E = {"type": "regex", "name": "has_e", "pattern": "e"}
SHORT = {"type": "length", "at_most": 3, "weight": 0.25}
DPO = {"algorithm": "dpo"}


def grpo(*rewards: dict[str, Any]) -> dict[str, Any]:
    return {"algorithm": "grpo", "num_generations": 4, "max_completion_length": 6, "rewards": list(rewards)}


@pytest.fixture
def request_for(service: Service, request_of: Any) -> Any:
    """Return a factory of RL requests for datasets of prompts or pairs."""
    chats, held_out = rows.train_rows(24), rows.held_out_rows(8)
    service.put_dataset("prompts", preference_rows.prompts(chats), preference_rows.prompts(held_out))
    service.put_dataset("pairs", preference_rows.pairs(chats), preference_rows.pairs(held_out))

    def make(dataset: str, rl: dict[str, Any], **training: Any) -> dict[str, Any]:
        training = {"batch_size": 8, "max_steps": 6, "learning_rate": 0.02} | training
        return request_of(method="RL", rl_config=rl, **training) | {"processed_dataset_id": dataset}

    return make


def sharpen_logits(model: Path) -> None:
    """Scale the embeddings so that a few train_steps change what is sampled.

    The embeddings are the tiny model's output head too.
    """
    weights = load_file(model / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 8
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def curve(service: Service, job_id: str) -> list[dict[str, Any]]:
    return [m for m in service.client.get(f"/jobs/{job_id}/metrics").json()["metrics"] if "loss" in m]


def test_a_grpo_job_records_its_reward_and_the_parts_of_it(service: Service, request_for: Any, tmp_path: Path) -> None:
    base = tiny_gemma.build(tmp_path / "sharp")
    sharpen_logits(base)
    job_id = service.submit(
        request_for("prompts", grpo(HAS_AN_E, SHORT), base_model_id=str(base), eval_strategy="epoch")
    )
    job = service.completed(job_id)
    assert [event["type"] for event in service.events(job_id) if event["type"] in MOVES] == MOVES
    assert loads_in_peft(job["adapter_path"], str(base))
    metrics = job["metrics"]
    for measured in (metrics, metrics["baseline"]):
        assert measured["reward"] == pytest.approx(measured["rewards"]["has_e"] + 0.25 * measured["rewards"]["length"])
    assert metrics["reward"] > metrics["baseline"]["reward"] + 0.3
    entries = curve(service, job_id)
    assert [entry["train_step"] for entry in entries] == list(range(1, 7))
    assert job["progress"]["reward"] == entries[-1]["reward"]
    assert {"rewards/has_e/mean", "rewards/length/mean", "reward_std"} <= set(entries[-1])
    assert "rewards/has_e" in service.cli("status", job_id).stdout


def test_a_dpo_job_records_its_margin_and_accuracy(service: Service, request_for: Any, tiny: Path) -> None:
    job_id = service.submit(request_for("pairs", DPO, learning_rate=5e-3, eval_strategy="epoch"))
    job = service.completed(job_id)
    assert [event["type"] for event in service.events(job_id) if event["type"] in MOVES] == MOVES
    assert loads_in_peft(job["adapter_path"], str(tiny))
    metrics = job["metrics"]
    assert metrics["baseline"]["margin"] == 0
    assert metrics["margin"] > 0.1
    assert metrics["preference_accuracy"] > 0.5
    assert metrics["eval_loss"] < metrics["baseline"]["eval_loss"]
    entries = curve(service, job_id)
    assert job["progress"]["margin"] == entries[-1]["rewards/margins"]
    assert "margin" in service.cli("status", job_id).stdout


def test_a_mistaken_rl_request_is_refused_at_once_with_what_to_change(service: Service, request_for: Any) -> None:
    answer = service.client.post("/train", json=request_for("prompts", grpo({"type": "bleu"}, HAS_AN_E)))
    assert answer.status_code == 422
    (problem,) = answer.json()["problems"]
    assert problem["loc"] == ["training_config", "rl_config", "rewards", 0, "type"]
    assert problem["code"] == "not_one_of"
    for reward_type in ("exact_answer", "numeric_answer", "regex", "json_schema", "length"):
        assert reward_type in problem["msg"]
    assert service.client.get("/jobs").json()["jobs"] == []


def test_rows_without_the_answer_a_reward_needs_fail_the_job_with_their_numbers(
    service: Service, request_for: Any
) -> None:
    answered = preference_rows.prompts(rows.train_rows(24))
    prompts = [{"prompt": row["prompt"], "solution": row["answer"]} for row in answered]
    service.put_dataset("unanswered", prompts)
    job_id = service.submit(request_for("unanswered", grpo({"type": "exact_answer"})))
    job = service.wait_until(job_id, lambda job: False, seconds=240)
    assert job["status"] == "failed"
    assert job["error_detail"]["code"] == "bad_rows"
    assert job["error_detail"]["step"] == "prepare"
    reason = "no answer, which a reward needs to compare with; the row has prompt, solution"
    assert f"row 1, row 2, row 3, row 4, row 5: {reason}" in job["error"]
    assert job["error_detail"]["hint"]
    assert job["steps"]["train"]["attempt"] == 0
