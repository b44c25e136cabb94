"""The advice of a refusal for lack of memory: whoever follows it is accepted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from docs.generate.pages.sizing import METHODS, sizes
from gemtune.errors import Problem
from gemtune.families.size import ModelSize
from gemtune.request.exports import EXPORTS
from tests.fakes import FACTS, checked, request

DEPLOYMENTS = (("l4",), ("cpu",), ("l4", "rtx-pro-6000"), ("l4", "rtx-pro-6000", "cpu"))
REWARDS = {"rewards": [{"type": "length", "at_most": 20}]}
SIZES = dict(sizes())
LARGEST: Mapping[str, Any] = {"batch_size": 64, "max_seq_length": 8192}


def refusal(size: ModelSize, machines: tuple[str, ...], fields: Mapping[str, Any]) -> Problem | None:
    """Return the problem for lack of memory; fail the test for any other."""
    deployment = replace(FACTS.deployment, machines=machines)
    problems = checked(request(**fields), facts=replace(FACTS, deployment=deployment, size=size)).problems
    assert {problem.code for problem in problems} <= {"needs_larger_machine"}, problems
    return problems[0] if problems else None


def changed(fields: Mapping[str, Any], words: str) -> dict[str, Any]:
    """Return a request with a change of the advice, taken literally."""
    pairs = (pair.split() for pair in words.split(" and "))
    values = {name: int(value) if value.isdigit() else value for name, value in pairs}
    return {**fields, "training": fields["training"] | values}


def suggestions(hint: str) -> list[str]:
    match = re.match(r"this would fit: ([^;]*)", hint)
    return [] if match is None else match[1].split(", or ")


def requests() -> Iterator[dict[str, Any]]:
    for fields in METHODS.values():
        rl = fields.get("rl_config")
        is_grpo = isinstance(rl, dict) and rl["algorithm"] == "grpo"
        training = dict(fields) | ({"rl_config": {**rl, **REWARDS}} if is_grpo and isinstance(rl, dict) else {})
        for larger in ({}, LARGEST):
            yield {"training": training | larger}
        if is_grpo and isinstance(rl, dict):  # more completions at once than fit, which make whole groups of 16
            yield {"training": training | LARGEST | {"rl_config": {**rl, **REWARDS, "num_generations": 16}}}


@pytest.mark.parametrize("name", SIZES)
def test_a_training_that_follows_the_advice_is_accepted(name: str) -> None:
    size, refused = SIZES[name], 0
    for fields in requests():
        for machines in DEPLOYMENTS:
            problem = refusal(size, machines, fields)
            if problem is None:
                continue
            refused += 1
            assert problem.hint is not None
            advice, _, elsewhere = problem.hint.partition("; or deploy machine ")
            assert suggestions(advice) or advice.startswith("use a smaller base model")
            if smaller := re.search(r", such as google/(.*)-it$", advice):
                assert refusal(SIZES[smaller[1]], machines, fields) is None, (machines, fields, smaller[1])
                assert SIZES[smaller[1]].parameters < size.parameters
            for words in suggestions(advice):
                assert refusal(size, machines, changed(fields, words)) is None, (machines, fields, words)
            if elsewhere:
                assert refusal(size, (*machines, elsewhere), fields) is None, (machines, fields, elsewhere)
    assert refused


@pytest.mark.parametrize("name", SIZES)
def test_a_smaller_base_model_is_advised_only_where_no_smaller_training_fits(name: str) -> None:
    """Try the smallest training by hand: QLoRA, one row of 256 tokens."""
    smallest = {"method": "QLoRA", "batch_size": 1, "max_seq_length": 256}
    for machines in DEPLOYMENTS:
        problem = refusal(SIZES[name], machines, {"training": {"method": "Full", **LARGEST}})
        if problem is not None and not suggestions(problem.hint or ""):
            assert refusal(SIZES[name], machines, {"training": smallest}) is not None


def test_the_advice_has_no_change_that_only_adds_to_another_one() -> None:
    problem = refusal(SIZES["gemma-3-27b"], ("l4", "rtx-pro-6000"), {"training": {"method": "Full"}})
    assert problem is not None
    assert suggestions(str(problem.hint)) == ["method LoRA", "method QLoRA"]


def test_a_smaller_model_of_a_job_with_pictures_reads_pictures() -> None:
    fields = {
        "modality": "vision",
        "training": {"method": "LoRA", "batch_size": 1, "base_model_id": "google/gemma-4-26b-a4b-it"},
    }
    problem = refusal(SIZES["gemma-4-26b"], ("l4",), fields)
    assert problem is not None
    assert str(problem.hint).startswith("use a smaller base model, such as google/gemma-3-4b-it")


@pytest.mark.parametrize("name", SIZES)
def test_an_export_that_follows_the_advice_is_accepted(name: str) -> None:
    training = {"method": "QLoRA", "batch_size": 1, "max_seq_length": 256}
    for export_format in EXPORTS:
        fields = {"training": training, "export_config": {"format": export_format}}
        for machines in (("rtx-pro-6000",), ("l4", "rtx-pro-6000")):
            problem = refusal(SIZES[name], machines, fields)
            if problem is not None and problem.loc[0] == "export_config":
                for other in ("adapter", "merged"):
                    assert other in str(problem.hint)
                    assert refusal(SIZES[name], machines, fields | {"export_config": {"format": other}}) is None
