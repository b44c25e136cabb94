"""Verdicts: which losses are within the limits of a format."""

from __future__ import annotations

from typing import Any

import pytest

from gemtune.request.exports import EXPORTS, MAX_KL, export_of, larger_exports
from trainer.certificate import verdict

Q4 = export_of("gguf", "q4_k_m").limits


def result(*, right: tuple[int, int] = (0, 0), **more: Any) -> dict[str, Any]:
    """Return the result of a comparison that an honest 4-bit export has."""
    rows = {
        "positions": 100,
        "mean_kl": 0.05,
        "top1_agreement": 0.95,
        "agreement": 0.97,
        "trained_loss": 0.05,
        "exported_loss": 0.11,
        "base_loss": 4.0,
        "loss_error": 0.01,
        "changed": 80,
        "changed_agreement": 0.97,
        "change_kept": 0.98,
        "trained_from_base": 4.0,
        "exported_from_base": 3.9,
    }
    probes = rows | {"mean_kl": 0.2}
    return {"rows": rows | more, "probes": probes, "right": {"trained": right[0], "exported": right[1]}}


def exceeded(measured: dict[str, Any], floor: float | None = 0.05, agreement: float = 0.95) -> list[str]:
    floors = (
        None
        if floor is None
        else {
            "rows": {"kl": floor, "agreement": agreement},
            "probes": {"kl": 3 * floor, "agreement": agreement},
        }
    )
    return [check.name for check in verdict.checks_of(measured, Q4, floors) if not check.passed]


def test_an_honest_export_passes_with_and_without_a_floor() -> None:
    assert exceeded(result()) == []
    assert exceeded(result(), None) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"mean_kl": 0.21}, "mean KL on held-out rows, nats per position"),
        ({"mean_kl": float("nan")}, "mean KL on held-out rows, nats per position"),
        ({"exported_loss": 0.48}, "share kept of the gain in held-out loss"),
        ({"exported_loss": float("inf")}, "share kept of the gain in held-out loss"),
        ({"changed_agreement": 0.8}, "same first choice where training changed it"),
        ({"agreement": 0.7}, "same first choice, or one almost as likely"),
        ({"change_kept": 0.3}, "share kept of what training changed"),
        ({"change_kept": 1.7}, "share kept of what training changed"),
        ({"right": (9, 6)}, "answers right, where the trained model has 9"),
        ({"right": (40, 35)}, "answers right, where the trained model has 40"),
    ],
)
def test_each_limit_is_checked(change: dict[str, Any], name: str) -> None:
    assert exceeded(result(**change)) == [name]


@pytest.mark.parametrize("right", [(9, 7), (40, 36), (1, 0), (0, 0)])
def test_two_answers_or_a_tenth_of_them_may_be_lost(right: tuple[int, int]) -> None:
    assert exceeded(result(right=right)) == []


def test_a_loss_within_two_standard_errors_is_chance() -> None:
    assert exceeded(result(exported_loss=0.48, loss_error=0.03)) == []


def test_a_gain_too_small_to_measure_is_not_judged() -> None:
    small = result(base_loss=0.1, exported_loss=0.11)
    assert verdict.gain_kept(small["rows"], Q4) is None
    assert exceeded(small) == []


def test_the_noise_floor_widens_the_limit_but_not_without_end() -> None:
    assert verdict.allowed_kl(Q4, 0.0) == Q4.kl
    assert verdict.allowed_kl(Q4, 0.06) == pytest.approx(0.24)
    assert verdict.allowed_kl(Q4, 5.0) == MAX_KL


def test_a_base_model_that_changes_its_choices_widens_the_limit_of_agreement() -> None:
    unsure = result(agreement=0.6, changed_agreement=0.6)
    assert len(exceeded(unsure)) == 2
    assert exceeded(unsure, agreement=0.7) == []


def test_qlora_is_held_to_the_rounding_of_its_own_base_model() -> None:
    adapter, nf4 = export_of("adapter", "none").limits, export_of("merged", "q4").limits
    limits = verdict.limits_for(adapter, "QLoRA", has_experts=False)
    assert (limits.kl, limits.change) == (nf4.kl, nf4.change)
    assert verdict.limits_for(adapter, "LoRA", has_experts=False) is adapter
    q2_k = export_of("gguf", "q2_k").limits
    assert verdict.limits_for(q2_k, "QLoRA", has_experts=False).kl == q2_k.kl
    assert verdict.limits_for(adapter, "LoRA", has_experts=True).kl == 4 * adapter.kl


def test_larger_quantizations_follow_each_other_and_the_largest_does_not_round() -> None:
    assert larger_exports("gguf", "q4_k_m") == ("q5_k_m", "q8_0", "f16")
    assert larger_exports("merged", "fp16") == ()
    for name, form in EXPORTS.items():
        smallest = min(form.exports, key=lambda export: len(larger_exports(name, export.quantization)))
        assert not smallest.rounds
        for export in form.exports:
            assert not export.rounds or larger_exports(name, export.quantization)
            if export.rounds:
                following = [export_of(name, each).limits for each in larger_exports(name, export.quantization)]
                assert all(limits.kl <= export.limits.kl for limits in following)
                assert all(limits.gain >= export.limits.gain for limits in following)
