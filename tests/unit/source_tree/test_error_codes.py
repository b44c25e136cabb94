"""The catalogue of error codes lists exactly the codes that the source uses."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from waitress import utilities
from werkzeug.exceptions import MethodNotAllowed

from gemtune import error_codes
from gemtune.error_codes import answers, problems
from gemtune.handlers.error_answers import code_for_reason
from gemtune.jobs.sources import Source
from gemtune.request import parsing, rewards, rl_spec, spec
from gemtune.request.training_config import TrainingConfig
from tests import codes_in_source
from trainer.hub.refusals import REFUSALS

ROOT = Path(__file__).parents[3]
FOLDERS = ("functions", "trainer")
# Files with expressions that are not codes, or whose codes other tests check.
ELSEWHERE: Mapping[str, str] = {
    "functions/gemtune/cli/answers/child.py": "codes of trainer.answers, and an exit code",
    "functions/gemtune/cli/workstation/demo.py": "an exit code",
    "functions/gemtune/client/transport.py": "codes of the service's answers",
    "functions/gemtune/handlers/error_answers.py": "codes of others, and HTTP's names",
    "functions/gemtune/local_server/cloud_run_jobs.py": "an exit code",
    "functions/gemtune/local_server/http_server.py": "HTTP's names",
    "functions/gemtune/local_server/workflow_engine/http_calls.py": "an HTTP status",
    "functions/gemtune/request/parsing.py": "pydantic's names",
    "trainer/process/child.py": "an exit code",
}


@pytest.fixture(scope="module")
def uses() -> list[codes_in_source.Use]:
    return codes_in_source.uses_in(ROOT, FOLDERS)


def written(uses: list[codes_in_source.Use]) -> set[str]:
    """Return the codes that the source has in calls, classes and tables."""
    return {code for use in uses for code in use.codes or ()} | {code for code, _, _ in REFUSALS.values()}


def catalogued() -> set[str]:
    return {code for chapter in error_codes.CATALOGUE for code in chapter.codes}


def test_the_catalogue_has_every_code_and_no_other(uses: list[codes_in_source.Use]) -> None:
    from_libraries = set(problems.VALUES) | set(answers.HTTP_NAMES)
    missing = written(uses) - catalogued()
    assert not missing, f"describe them in gemtune/error_codes: {sorted(missing)}"
    unused = catalogued() - written(uses) - from_libraries
    assert not unused, f"nothing puts these out any more, remove them from gemtune/error_codes: {sorted(unused)}"


def test_no_expression_hides_a_code(uses: list[codes_in_source.Use]) -> None:
    hidden = {use.file: use.expression for use in uses if use.codes is None and not use.passes_on}
    assert {file: expression for file, expression in hidden.items() if file not in ELSEWHERE} == {}
    assert set(ELSEWHERE) <= set(hidden)


def test_entries_are_sentences() -> None:
    texts = [text for chapter in error_codes.CATALOGUE for entry in chapter.codes.values() for text in entry]
    texts += [chapter.place for chapter in error_codes.CATALOGUE]
    assert [text for text in texts if not text.endswith(".") or "|" in text or "\n" in text] == []


def test_codes_of_http_are_those_of_the_server() -> None:
    kinds = [kind for kind in vars(utilities).values() if isinstance(kind, type) and issubclass(kind, utilities.Error)]
    names = [kind.reason for kind in kinds] + [MethodNotAllowed().name]
    codes = {code_for_reason(name) for name in names}
    assert codes - set(answers.ANSWERS) == set(answers.HTTP_NAMES)


WRONG = (None, True, 0, -1, -1.5, 0.5, 1e300, 2**64, "", "x" * 5000, "\n", [], [None], ["x"] * 100, {}, {"a": 1})
REWARDS = (rewards.ExactAnswer, rewards.NumericAnswer, rewards.Regex, rewards.JsonSchema, rewards.Length)
WHOLE: dict[str, Any] = {
    "processed_dataset_id": "a",
    "training_config": {
        "base_model_id": "google/gemma-3-270m-it",
        "rl_config": {
            "algorithm": "grpo",
            "rewards": [
                {"type": "exact_answer"},
                {"type": "numeric_answer"},
                {"type": "regex", "pattern": "x"},
                {"type": "json_schema", "json_schema": {}},
                {"type": "length", "at_least": 1},
            ],
        },
    },
    "export_config": {},
    "wandb_config": {},
    "notify": {},
}


def places() -> Iterator[tuple[str | int, ...]]:
    """Return the location of each field of a request."""
    models: dict[tuple[str | int, ...], type[BaseModel]] = {
        (): spec.TrainRequest,
        ("training_config",): TrainingConfig,
        ("training_config", "rl_config"): rl_spec.GrpoConfig,
        ("export_config",): spec.ExportConfig,
        ("wandb_config",): spec.WandbConfig,
        ("notify",): spec.Notify,
    } | {("training_config", "rl_config", "rewards", index): reward for index, reward in enumerate(REWARDS)}
    return ((*loc, name) for loc, model in models.items() for name in model.model_fields)


def test_codes_of_wrong_values_are_those_that_fields_can_have() -> None:
    codes = set()
    for *outer, name in places():
        for value in WRONG:
            request = copy.deepcopy(WHOLE)
            target: Any = request
            for part in outer:
                target = target[part]
            target[name] = value
            codes |= {problem.code for problem in parsing.read(json.dumps(request), Source.HTTP).problems}
    assert codes == set(problems.VALUES)


def test_planted_codes_are_found(tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "step.py").write_text(
        "LATE = 'too_late'\n"
        "class Refused(Exception):\n    code = 'a_class'\n    def __init__(self, message, code): ...\n"
        "def problem(loc, code): ...\n"
        "problem((), 'an_argument')\nproblem((), code='a_keyword')\nproblem((), LATE)\nproblem((), f'{LATE}')\n"
        "raise Refused('', 'raised')\n"
        "answer = {'code': 'in_a_body'}\n"
    )
    uses = codes_in_source.uses_in(tmp_path, ["trainer"])
    codes = {code for use in uses for code in use.codes or ()}
    assert codes == {"a_class", "an_argument", "a_keyword", "too_late", "raised", "in_a_body"}
    assert [use.expression for use in uses if use.codes is None] == ["f'{LATE}'"]
