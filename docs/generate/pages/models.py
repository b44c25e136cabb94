"""Page of base models, from the families and from what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from docs.generate.text.markdown import Page, code, codes
from gemtune.families import FAMILIES
from gemtune.families.generation import Family
from gemtune.families.unsupported import BY_END, BY_MODEL_TYPE, BY_NAME, BY_OWNER
from gemtune.methods import Method


def page() -> Page:
    page = Page("Base models", "Which Gemma models can be trained here, what each can do, and which are refused.")
    page.paragraph(
        f"Every model of these families trains on text with every method: {codes(get_args(Method))}. A model counts by "
        "the `model_type` of its config.json; a repository of the Hub by its name, until `prepare` has its config.json."
    )
    page.heading("What each kind of model can do")
    page.table(
        ("family", "`model_type`", "pictures", "audio", "export as GGUF", "adapter in vLLM"),
        [
            (
                family.name,
                code(name),
                _answer(kind.why_no_pictures),
                _answer(kind.why_no_audio),
                _answer(kind.why_no_gguf),
                _answer(kind.why_no_vllm_adapter),
            )
            for family in FAMILIES
            for name, kind in family.model_types.items()
        ],
    )
    page.heading("Models that are known by name")
    page.paragraph(
        "Their size is known before a file is read, so a job that fits on no machine is refused at once. Any suffix of "
        "the name (`-it`, `-pt`, `-qat-…`) is the same size. [What fits where](sizing.md)."
    )
    page.table(
        ("name", "family", "parameters", "layers", "hidden size", "pictures", "audio"),
        [
            (
                code(name),
                family.name,
                f"{size.parameters / 1e9:.2f} B",
                str(size.layers),
                str(size.hidden),
                _answer(family.why_no_media_by_name("vision", name)),
                _answer(family.why_no_media_by_name("audio", name)),
            )
            for family in FAMILIES
            for name, size in family.sizes.items()
        ],
    )
    page.heading("Names and licences")
    page.table(
        ("family", "names that have one of these parts", "licence on the Hub", "turns begin and end with"),
        [_family(family) for family in FAMILIES],
    )
    page.heading("Models that are refused")
    page.paragraph(
        "With [`model_not_supported`](error-codes.md#a-request-that-cannot-be-done); a model of another architecture "
        "with `not_a_gemma`."
    )
    page.table(("reason", "`model_type`", "part of a name"), _refused())
    page.paragraph(
        f"Names of a Gemma that end in {codes(f'-{end}' for end in BY_END)} are refused, and models of the owners "
        f"{codes(BY_OWNER)}: their files are for other programs."
    )
    return page


def _family(family: Family) -> tuple[str, ...]:
    turns = family.turns
    return family.name, codes(family.names), code(family.licence), f"{code(turns.start)} … {code(turns.end)}"


def _answer(reason: str | None) -> str:
    return "yes" if reason is None else f"no: {reason}"


def _refused() -> list[tuple[str, str, str]]:
    def naming(table: Mapping[str, str], reason: str) -> str:
        return codes(name for name, why in table.items() if why == reason)

    reasons = dict.fromkeys([*BY_MODEL_TYPE.values(), *BY_NAME.values()])
    return [(reason, naming(BY_MODEL_TYPE, reason), naming(BY_NAME, reason)) for reason in reasons]
