"""Tables that must agree: requests, records, the trainer and docs/.

mypy checks the rest: the trainer's matches over these types have no default, so a missing case is a type error.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import gguf
import pytest
from pydantic import BaseModel, Field, TypeAdapter

from gemtune.jobs.sources import Source
from gemtune.request import exports, rewards, rl_spec
from gemtune.request.exports import ExportFormat, GgufExport, Limits
from gemtune.request.rewards import RewardBase
from gemtune.request.spec import ExportConfig, Notify, TrainRequest, WandbConfig
from gemtune.request.training_config import TrainingConfig
from tests.syntax import nodes_of
from trainer.export.merge import encoding_of
from trainer.rows.rewards import score_function

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
EXPORTS_PAGE = (DOCS / "export-and-certificate.md").read_text()
REWARDS_PAGE = (DOCS / "methods-and-rewards.md").read_text()
# The required fields of each reward.
PARAMETERS: dict[str, dict[str, Any]] = {
    "exact_answer": {},
    "numeric_answer": {},
    "regex": {"pattern": "a"},
    "json_schema": {"json_schema": {}},
    "length": {"at_most": 9},
}


def gaps_of_exports() -> Iterator[str]:
    """Yield entries that the tables lack for an export."""
    if set(get_args(exports.Format)) != set(exports.EXPORTS):
        yield "formats: the type and the table differ"
    records = [export for kind in exports.EXPORTS.values() for export in kind.exports]
    names = {
        "quantizations": (exports.Quantization, records),
        "merged quantizations": (exports.MergedQuantization, exports.EXPORTS["merged"].exports),
        "gguf quantizations": (exports.GgufQuantization, exports.EXPORTS["gguf"].exports),
    }
    for what, (literal, listed) in names.items():
        if differing := set(get_args(literal)) ^ {export.quantization for export in listed}:
            yield f"{what}: the type and the table differ by {', '.join(sorted(differing))}"
    for name, kind in exports.EXPORTS.items():
        row = next((line for line in EXPORTS_PAGE.splitlines() if line.startswith(f"| `{name}` |")), "")
        for export in kind.exports:
            if f"`{export.quantization}`" not in row:
                yield f"{name} {export.quantization} is not in the table of exports in docs/"
            if isinstance(export, GgufExport) and not hasattr(gguf.LlamaFileType, f"MOSTLY_{export.llama_type}"):
                yield f"llama.cpp knows no {export.llama_type}"
            if export.rounds and export.quantization not in exports.BY_SIZE[name]:
                yield f"{name} {export.quantization} has no place in the order by size"


def gaps_of_rewards() -> Iterator[str]:
    """Yield entries that the tables lack for a reward."""
    adapter: TypeAdapter[Any] = TypeAdapter(rewards.Reward)
    for reward in get_args(get_args(rewards.Reward)[0]):
        (name,) = get_args(reward.model_fields["type"].annotation)
        if not hasattr(reward, "compares"):
            yield f"{name} does not say what it compares"
        if f"| `{name}` |" not in REWARDS_PAGE:
            yield f"{name} is not in the table of rewards in docs/"
        if name not in PARAMETERS:
            yield f"{name} is not in PARAMETERS of this test"
            continue
        try:
            score_function(adapter.validate_python({"type": name} | PARAMETERS[name]))
        except AssertionError:
            yield f"the trainer has no function for {name}"


def new_gaps(gaps: Callable[[], Iterator[str]], plant: Callable[[], None]) -> list[str]:
    """Return the gaps that are there after something was planted."""
    before = set(gaps())
    plant()
    return [gap for gap in gaps() if gap not in before]


def test_no_export_lacks_an_entry() -> None:
    assert not (gaps := list(gaps_of_exports())), "\n".join(gaps)
    for export in exports.MERGED:
        assert callable(encoding_of(export.quantization))


def test_no_reward_lacks_an_entry() -> None:
    assert not (gaps := list(gaps_of_rewards())), "\n".join(gaps)


@pytest.mark.parametrize("export", [export for kind in exports.EXPORTS.values() for export in kind.exports])
def test_the_limits_of_an_export_are_in_range(export: exports.Export) -> None:
    limits = export.limits
    assert limits.kl > 0
    assert limits.noise >= 1
    assert all(0 < share < 1 for share in (limits.top1, limits.learned, limits.gain, limits.change))
    assert limits.reason


def test_only_requests_over_http_may_contain_a_token() -> None:
    assert {source.value: source.exposes_tokens for source in Source} == {"http": False, "pubsub": True, "upload": True}


LIMITS = Limits(1.0, 4.0, 0.5, 0.5, 0.5, 0.5, "planted")


def test_a_quantization_that_only_the_table_has_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = GgufExport(quantization="q9_x", stored="9 bits", limits=LIMITS, llama_type="Q9_X")  # type: ignore[arg-type]
    whole = exports.EXPORTS["gguf"]
    more = ExportFormat(whole.library, whole.relation, whole.local_bytes, (*whole.exports, planted))
    plant = partial(monkeypatch.setitem, exports.EXPORTS, "gguf", more)  # type: ignore[arg-type]
    assert new_gaps(gaps_of_exports, plant) == [
        "quantizations: the type and the table differ by q9_x",
        "gguf quantizations: the type and the table differ by q9_x",
        "gguf q9_x is not in the table of exports in docs/",
        "llama.cpp knows no Q9_X",
        "gguf q9_x has no place in the order by size",
    ]


def test_a_quantization_that_only_requests_have_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    more = Literal[(*get_args(exports.Quantization), "q9_x")]
    plant = partial(monkeypatch.setattr, exports, "Quantization", more)
    assert new_gaps(gaps_of_exports, plant) == ["quantizations: the type and the table differ by q9_x"]
    with pytest.raises(AssertionError):
        encoding_of("q9_x")  # type: ignore[arg-type]


def test_a_reward_that_only_requests_have_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rhymes(RewardBase):
        type: Literal["rhymes"]

        def problems(self, loc: Any, *, max_completion_length: int) -> Iterator[Any]:
            return iter(())

    more = Annotated[Rhymes | get_args(rewards.Reward)[0], Field(discriminator="type")]
    plant = partial(monkeypatch.setattr, rewards, "Reward", more)
    unnamed = ["rhymes does not say what it compares", "rhymes is not in the table of rewards in docs/"]
    assert new_gaps(gaps_of_rewards, plant) == [*unnamed, "rhymes is not in PARAMETERS of this test"]
    monkeypatch.undo()
    monkeypatch.setitem(PARAMETERS, "rhymes", {})
    assert new_gaps(gaps_of_rewards, plant) == [
        "rhymes does not say what it compares",
        "rhymes is not in the table of rewards in docs/",
        "the trainer has no function for rhymes",
    ]


# Models of requests whose fields the service or the trainer has to read, and modules whose reads do not count, because
# a field that is only checked or published has no effect.
PARTS = (
    TrainRequest,
    TrainingConfig,
    ExportConfig,
    WandbConfig,
    Notify,
    rl_spec.GrpoConfig,
    rl_spec.DpoConfig,
    rl_spec.KtoConfig,
)
WITHOUT_EFFECT = ("functions/gemtune/request/rules/", "trainer/published.py")
# Expressions for a request or a part of one.
OWNERS = re.compile(r"(config|spec|rl|request|job|notify|wandb|training|algorithm|self|_of\(.*\))$")


def fields_that_nothing_reads(models: Iterable[type[BaseModel]]) -> list[str]:
    """Return fields that neither the service nor the trainer reads."""
    read: set[str] = set()
    for path in [*(ROOT / "trainer").rglob("*.py"), *(ROOT / "functions" / "gemtune").rglob("*.py")]:
        if not path.relative_to(ROOT).as_posix().startswith(WITHOUT_EFFECT):
            reads = (node for node in nodes_of(path.read_text()) if isinstance(node, ast.Attribute))
            read |= {node.attr for node in reads if OWNERS.search(ast.unparse(node.value))}
    return [f"{model.__name__}.{name}" for model in models for name in model.model_fields if name not in read]


def test_every_field_of_a_request_is_read() -> None:
    class More(TrainingConfig):
        clip_norm: float = 1.0

    unread = fields_that_nothing_reads([*PARTS, More])
    assert unread == ["More.clip_norm"], "nothing reads these fields, so they have no effect"
