"""Comparison of an export with what the trained model said."""

from __future__ import annotations

import gc
import json
import resource
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from gemtune.request.exports import AdapterExport
from trainer.certificate import reference
from trainer.certificate.batches import batches_of, trained_and_base_logits
from trainer.certificate.files import check
from trainer.certificate.files.case import Case
from trainer.certificate.held_out_rows import OWN_QUESTIONS, ComparisonRows, Row
from trainer.certificate.output_head import OutputHead, heads_of
from trainer.certificate.reference import ANSWER_TOKENS, ANSWERS, Reference, RowStates
from trainer.certificate.runtimes import LlamaCpp, Runtime, Transformers, suppressed_tokens
from trainer.certificate.sums import Block, Sums, deviations, noise_of
from trainer.certificate.verdict import DEVIATION
from trainer.conversation.chat_template import json_object
from trainer.export.tokenizer_files import end_tokens
from trainer.gguf.llama_library import BF16, EIGHT_BITS, LlamaModel, LoadError

# Source of a reference that was not recorded in training, in words for the certificate.
COMPUTED = "as computed from the trained files: the job was trained by a version that recorded nothing"
KINDS = ("rows", "probes")
# Rows of each kind, and positions of each of them, on which the function that llama.cpp computes is measured.
FUNCTION_ROWS, FUNCTION_POSITIONS = 6, 8


def compare(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a case, which `comparison_process` describes.

    If the export's runtime cannot load it, the result is only `cannot_load` with the error; if its files are not those
    of the trained model beyond rounding, only `faults` with sentences.
    """
    case = Case.read(stored)
    try:
        model = check.llama_model(case)
        wrong = check.problems(case, model)
    except Exception as error:  # a damaged export may raise anything
        return _cannot_load(error)
    if wrong:
        return {"faults": wrong}
    expected = _reference(case, stored)
    heads = heads_of(case.base, case.adapter)
    try:
        exported = _load(case, model, with_media=any(row.media for row in expected.rows.rows))
    except Exception as error:
        return _cannot_load(error)
    if wrong := _end_problems(case, exported):
        return {"faults": wrong}
    differing, untrimmed = _prompt_differences(exported, expected.rows)
    return {
        "runtime": exported.name,
        "source": expected.rows.source if _compared(expected, "rows", exported) else OWN_QUESTIONS,
        "origin": expected.origin,
        "prompts": len(expected.rows.prompts),
        "prompts_that_differ": differing,
        "prompts_untrimmed": untrimmed,
        "answers": _answers(exported, expected),
        **_measured(expected, heads, exported),
        "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def measure(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a case asks for: a comparison, unless it names a file.

    See `compare`, `measure_function` for a case with `exact`, and `measure_floor` for one with `floor`.
    """
    if stored.get("exact") is not None:
        return measure_function(stored)
    return compare(stored) if stored.get("floor") is None else dict(measure_floor(stored))


def measure_function(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return how far llama.cpp's logits in 16 bits are from the trained ones.

    stored: a case whose `exact` names a GGUF file in 16 bits. Without a reference, what base and adapter say is
    computed. Returns `deviation`, the median over positions of `sums.deviations`, and `noise`, see `_noise`; None if
    the deviation is small. Returns only `cannot_load` if llama.cpp cannot run the file.
    """
    case = Case.read(stored)
    rows, hidden = _function_states(case, stored)
    head, _ = heads_of(case.base, case.adapter)
    suppressed = suppressed_tokens(case.trained)
    try:
        model = LlamaModel(case.tools, Path(stored["exact"]))
        exact = [_first_logits(model, row) for row in rows]
    except LoadError as error:
        return _cannot_load(error)
    trained = head(torch.cat(hidden)).split([len(each) for each in hidden]) if hidden else []
    deviation, noise = _median_deviation(trained, exact, suppressed), None
    if not deviation <= DEVIATION:
        noise = _noise(model, rows, exact, suppressed)
    return {"deviation": deviation, "noise": noise}


def _function_states(case: Case, stored: Mapping[str, Any]) -> tuple[list[Row], list[torch.Tensor]]:
    """Return some rows of each kind, with the states of their first positions."""
    expected = None if stored.get("reference") is None else reference.read(Path(stored["reference"]))
    rows = ComparisonRows.read(stored["rows"]).rows if expected is None else expected.rows.rows
    of_kinds = (
        (index for index, row in enumerate(rows) if row.positions and not row.media and row.probe is is_probe)
        for is_probe in (False, True)
    )
    chosen = [index for of_kind in of_kinds for index in islice(of_kind, FUNCTION_ROWS)]
    if expected is not None:
        hidden = [expected.states[index].hidden[:FUNCTION_POSITIONS] for index in chosen]
    else:
        trained = Transformers(case.base, case.adapter)
        hidden = [
            trained.hidden(rows[index].input_ids, rows[index].positions[:FUNCTION_POSITIONS], {}) for index in chosen
        ]
        del trained
        gc.collect()  # modules refer to each other in cycles; llama.cpp loads its file next
    return [rows[index] for index in chosen], hidden


def _noise(model: LlamaModel, rows: Sequence[Row], exact: Sequence[torch.Tensor], suppressed: Sequence[int]) -> float:
    """Return how far a cache in 8 bits moves llama.cpp's logits.

    About as far as rounding weights to bf16 does. Heads that it cannot keep so are kept in bf16, which moves logits
    less: measured on tiny models, a fourth to an eleventh. exact: logits without it. Raises LoadError.
    """
    with suppress(LoadError):
        return _median_deviation(exact, [_first_logits(model, row, EIGHT_BITS) for row in rows], suppressed)
    return 8.0 * _median_deviation(exact, [_first_logits(model, row, BF16) for row in rows], suppressed)


def _first_logits(model: LlamaModel, row: Row, rounded: int | None = None) -> torch.Tensor:
    """Return llama.cpp's logits of a row's first compared positions."""
    positions = row.positions[:FUNCTION_POSITIONS]
    blocks = model.logits(row.input_ids[: positions[-1] + 1], set(positions), rounded=rounded)
    return torch.cat([torch.from_numpy(block.copy()) for block in blocks])


def _median_deviation(
    first: Sequence[torch.Tensor], second: Sequence[torch.Tensor], suppressed: Sequence[int]
) -> float:
    """Return the median of `sums.deviations` over the positions of some rows.

    0 without rows.
    """
    by_row = [deviations(*pair, suppressed) for pair in zip(first, second, strict=True)]
    return float(torch.cat(by_row).median()) if by_row else 0.0


def measure_floor(stored: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return how far the same rounding moves the base model, by kind of row.

    stored: a case whose `floor` names a file or a folder with the base model as exported. Returns `kl` in nats per
    position, and `agreement`, the share of positions with the same first choice.
    """
    case = Case.read(stored)
    expected = _reference(case, stored)
    _, head = heads_of(case.base, case.adapter)
    assert head is not None, "only adapters have a base model to compare with"
    place = Path(stored["floor"])
    with_media = any(row.media for row in expected.rows.rows)
    rounded: Runtime
    if place.suffix == ".gguf":
        rounded = LlamaCpp(LlamaModel(case.tools, place), place.parent, case.trained)
    else:
        rounded = Transformers(place, with_media=with_media)
    floor = {}
    for kind in KINDS:
        pairs = ((batch, batch.joined()) for batch in batches_of(_compared(expected, kind, rounded)))
        logits = ((head(states.base), rounded.logits(batch)) for batch, states in pairs if states.base is not None)
        kl, agreement = noise_of(logits, rounded.suppressed)
        floor[kind] = {"kl": kl, "agreement": agreement}
    return floor


def _compared(expected: Reference, kind: str, runtime: Runtime) -> list[tuple[Row, RowStates]]:
    """Return the rows of a kind that a runtime can read."""
    pairs = zip(expected.rows.rows, expected.states, strict=True)
    of_kind = [(row, states) for row, states in pairs if row.probe is (kind == "probes")]
    return [(row, states) for row, states in of_kind if runtime.reads_media or not row.media]


def _cannot_load(error: Exception) -> dict[str, Any]:
    return {"cannot_load": f"{type(error).__name__}: {str(error)[:500]}"}


def _reference(case: Case, stored: Mapping[str, Any]) -> Reference:
    """Read the reference of the training, or compute one from its files."""
    if stored.get("reference") is not None:
        return reference.read(Path(stored["reference"]))
    rows = ComparisonRows.read(stored["rows"])
    trained = Transformers(case.base, case.adapter)
    states = []
    for row in rows.rows:
        hidden = trained.hidden(row.input_ids, row.positions, {})
        base = trained.base_hidden(row.input_ids, row.positions, {})
        losses = choices = None
        if base is not None:
            losses, choices = trained.head.predictions(base, [row.labels[at + 1] for at in row.positions])
        states.append(RowStates(hidden, base, losses, choices))
    answers = [trained.answer(prompt.tokens, ANSWER_TOKENS) for prompt in rows.prompts[:ANSWERS]]
    del trained
    gc.collect()  # modules refer to each other in cycles; the export is loaded next
    return Reference(rows, states, answers, COMPUTED)


def _load(case: Case, model: LlamaModel | None, *, with_media: bool) -> Runtime:
    """Load an export, or take its GGUF file; transformers may raise anything."""
    if model is not None:
        return LlamaCpp(model, case.folder, case.trained)
    if isinstance(case.export, AdapterExport) and case.adapter is not None:
        return Transformers(case.base, case.folder, with_media=with_media)
    return Transformers(case.folder, with_media=with_media)


def _end_problems(case: Case, exported: Runtime) -> list[str]:
    """Return at which tokens the export would not stop, and training does."""
    ends = end_tokens(json_object(case.trained / "generation_config.json"))
    return [
        f"it does not stop at token {token}, which ends an answer" for token in ends if not exported.stops_at(token)
    ]


def _answers(exported: Runtime, expected: Reference) -> list[dict[str, str]]:
    """Return the first tokens of sample answers of both models."""
    pairs = zip(expected.rows.prompts, expected.answers, strict=False)
    return [
        {
            "prompt": _shown(prompt.messages[-1]["content"]),
            "trained": exported.text(answer),
            "exported": exported.text(exported.answer(prompt.tokens, ANSWER_TOKENS)),
        }
        for prompt, answer in pairs
    ]


def _shown(content: Any) -> str:
    """Return a message's content as text.

    It can be a list of parts, or an object for a tool's result.
    """
    if isinstance(content, list) and all(isinstance(part.get("text"), str) for part in content):
        return "".join(part["text"] for part in content)
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _measured(expected: Reference, heads: tuple[OutputHead, OutputHead | None], exported: Runtime) -> dict[str, Any]:
    """Return the metrics by kind of row, and the answers that are right.

    Right means that every token of the answer is the first choice, so that greedy generation gives the answer.
    """
    sums = {kind: Sums(exported.suppressed) for kind in KINDS}
    right = {"trained": 0, "exported": 0}
    for kind in KINDS:
        for batch in batches_of(_compared(expected, kind, exported)):
            states = batch.joined()
            trained, base = trained_and_base_logits(states, *heads)
            block = Block(trained, exported.logits(batch), base, batch.targets, states.base_loss, states.base_choice)
            hits = dict(zip(right, sums[kind].add(block), strict=True))
            for name, by_position in hits.items():
                by_row = zip(batch.rows, by_position.split(batch.counts), strict=True)
                right[name] += sum(bool(hit.all()) for row, hit in by_row if kind == "rows" and row.whole)
    counts = {f"{kind}_compared": len(_compared(expected, kind, exported)) for kind in KINDS}
    with_media = sum(bool(row.media) for row in expected.rows.rows)
    media = {
        "media_source": expected.rows.source,
        "media_rows": with_media,
        "media_compared": with_media if exported.reads_media else 0,
    }
    return {kind: sums[kind].metrics() for kind in KINDS} | {"right": right} | counts | media


def _prompt_differences(exported: Runtime, rows: ComparisonRows) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the prompts with other tokens, and known differences.

    `way` says how they were rendered: by the chat template or the Modelfile. Known: names of prompts on which a way
    differs only because it does not trim messages.
    """
    differing: list[dict[str, Any]] = []
    untrimmed: list[str] = []
    for prompt in rows.prompts:
        trimmed = {} if prompt.options else exported.trimmed_prompts(prompt.messages)
        for way, tokens in exported.prompts(prompt.messages, prompt.options).items():
            if list(tokens) == prompt.tokens:
                continue
            if list(trimmed.get(way, ())) == prompt.tokens:
                untrimmed.append(prompt.name)
                continue
            pieces = {"expected": prompt.tokens[:64], "found": list(tokens)[:64]}
            differing.append({"way": way, "name": prompt.name} | pieces)
    return differing, untrimmed
