"""Verdict: whether an export loses no more than rounding may cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gemtune.jobs.parts.results import Parity
from gemtune.methods import Method
from gemtune.request.exports import EXPERTS_FACTOR, MAX_KL, PROBE_FACTOR, WITHOUT_FLOOR, Limits, merged_export

# The noise floor by kind of row: `kl` and `agreement`, see `comparison.measure_floor`.
Floor = Mapping[str, Mapping[str, float]]
# Floor of a rounding that moves nothing, with which no limit widens.
NO_NOISE: Floor = {kind: {"kl": 0.0, "agreement": 1.0} for kind in ("rows", "probes")}
# An export may disagree with the trained model at so many times the positions at which the rounded base model disagrees
# with the base model.
DISAGREEMENT = 1.5
# Positions at which the first choices may differ in addition to the limit: among some tens of positions, one or two
# have two tokens of almost the same probability. So many answers may be wrong in addition, too.
NEAR_TIES = 2
# Deviation of llama.cpp's logits in 16 bits from those of training, as a share of their variance, that is always
# allowed; it is 17 times that of the worst of 18 honest exports (bench/RESULTS.md). Beyond it, so many times the noise,
# since a model may amplify any rounding.
DEVIATION, DEVIATION_NOISE = 0.002, 3.0
# Standard errors of the lost loss that are held to be chance.
ERRORS = 2.0


def limits_for(limits: Limits, method: Method, *, has_experts: bool) -> Limits:
    """Return the limits of an export for a training method and a model.

    has_experts: whether the model is a mixture of experts, whose routers amplify rounding.

    QLoRA trains on a base model in 4 bits and its adapter is exported for the original one, so every export of it moves
    by the rounding of NF4: the looser limit of both formats counts.
    """
    if has_experts:
        reason = f"{limits.reason}; and a router sends tokens to other experts at the slightest rounding"
        limits = replace(limits, kl=limits.kl * EXPERTS_FACTOR, reason=reason)
    if method != "QLoRA":
        return limits
    nf4 = merged_export("q4").limits
    return replace(
        limits,
        kl=max(limits.kl, nf4.kl),
        noise=max(limits.noise, nf4.noise),
        top1=min(limits.top1, nf4.top1),
        learned=min(limits.learned, nf4.learned),
        gain=min(limits.gain, nf4.gain),
        change=min(limits.change, nf4.change),
        reason=f"{limits.reason}; and QLoRA trained on the base model in NF4, while the export is for the original one",
    )


@dataclass(frozen=True, slots=True)
class Check:
    """Measured value and its limit, in words. passed: whether it is within."""

    name: str
    value: str
    limit: str
    passed: bool


def checks_of(result: Mapping[str, Any], limits: Limits, floor: Floor | None) -> list[Check]:
    """Return all checks of a comparison's result.

    floor: noise floor by kind of row, from `comparison.measure_floor`; None if it was not measured.
    """
    rows, probes = result["rows"], result["probes"]
    main = rows if rows["positions"] else probes
    checks = []
    for kind, metrics, factor in (("rows", rows, 1.0), ("probes", probes, PROBE_FACTOR)):
        if metrics["positions"]:
            allowed = allowed_kl(limits, None if floor is None else floor[kind]["kl"], factor)
            name = f"mean KL on {'held-out rows' if kind == 'rows' else 'probes'}, nats per position"
            checks.append(Check(name, f"{metrics['mean_kl']:.6f}", f"{allowed:.4g}", metrics["mean_kl"] <= allowed))
    same = "rows" if main is rows else "probes"
    top1, learned = (_allowed_agreement(limit, floor, same) for limit in (limits.top1, limits.learned))
    checks.append(_agreement("same first choice, or one almost as likely", main["agreement"], main["positions"], top1))
    if main["changed_agreement"] is not None:
        name = "same first choice where training changed it"
        checks.append(_agreement(name, main["changed_agreement"], main["changed"], learned))
    if (share := gain_kept(rows, limits)) is not None:
        gain = rows["base_loss"] - rows["trained_loss"]
        lost = rows["exported_loss"] - rows["trained_loss"] - ERRORS * rows["loss_error"]
        is_kept = math.isfinite(lost) and lost <= (1 - limits.gain) * gain
        checks.append(
            Check("share kept of the gain in held-out loss", f"{share:.1%}", f"at least {limits.gain:.0%}", is_kept)
        )
    if main["change_kept"] is not None:
        change = main["change_kept"]
        passed = math.isfinite(change) and limits.change <= change <= 2 - limits.change
        checks.append(
            Check("share kept of what training changed", f"{change:.1%}", f"at least {limits.change:.0%}", passed)
        )
    right, needed = result["right"], math.floor(0.9 * result["right"]["trained"])
    if right["trained"]:
        needed = max(0, min(needed, right["trained"] - NEAR_TIES))
        name = f"answers right, where the trained model has {right['trained']}"
        checks.append(Check(name, str(right["exported"]), f"at least {needed}", right["exported"] >= needed))
    return checks


def allowed_kl(limits: Limits, floor: float | None, factor: float = 1.0) -> float:
    """Return the mean KL divergence that an export may have.

    factor: of rows that rounding moves more than those of the training.
    """
    beyond = limits.kl * WITHOUT_FLOOR if floor is None else min(limits.noise * floor, MAX_KL * factor)
    return max(limits.kl * factor, beyond if floor is not None else beyond * factor)


def allowed_deviation(noise: float | None) -> float:
    """Return how far llama.cpp's logits in 16 bits may deviate.

    noise: see `comparison.measure_function`; None allows DEVIATION only.
    """
    return max(DEVIATION, DEVIATION_NOISE * (noise or 0.0))


def _allowed_agreement(limit: float, floor: Floor | None, kind: str) -> float:
    """Return the share of positions at which an export has to agree.

    As with the divergence, the limit widens by what the same rounding does to the base model: a model that is unsure
    changes its first choice at the slightest touch.
    """
    if floor is None:
        return max(0.0, 1 - WITHOUT_FLOOR * (1 - limit))
    return max(0.0, min(limit, 1 - DISAGREEMENT * (1 - floor[kind]["agreement"])))


def gain_kept(rows: Mapping[str, Any], limits: Limits) -> float | None:
    """Return the share of the gain in held-out loss that an export keeps.

    None without rows or a base model's loss, or if the gain is so small that any rounding may exceed it.
    """
    if not rows["positions"] or rows["base_loss"] is None:
        return None
    gain = rows["base_loss"] - rows["trained_loss"]
    if not gain > limits.kl:
        return None
    return float((rows["base_loss"] - rows["exported_loss"]) / gain)


def _agreement(name: str, share: float, positions: int, limit: float) -> Check:
    passed = (share - limit) * positions >= -NEAR_TIES
    return Check(name, f"{share:.2%} of {positions}", f"{limit:.0%}, and {NEAR_TIES} near ties", passed)


def parity_of(result: Mapping[str, Any], limits: Limits, floor: Floor | None) -> Parity:
    """Return the metrics of a comparison as the job's record has them."""
    rows, probes = result["rows"], result["probes"]
    main = rows if rows["positions"] else probes
    differing = {str(each["expected"]) for each in result["prompts_that_differ"]}
    has_answers = result["right"]["trained"] > 0
    return Parity(
        source=result["source"],
        rows=result["rows_compared"] or result["probes_compared"],
        media_rows=result["media_compared"],
        positions=main["positions"],
        prompts=result["prompts"],
        prompts_identical=result["prompts"] - len(differing),
        change_kept=_finite_or_none(main["change_kept"]),
        mean_kl=_finite(main["mean_kl"]),
        top1_agreement=main["top1_agreement"],
        perplexity=_finite(_exp(main["exported_loss"])),
        perplexity_trained=_finite(_exp(main["trained_loss"])),
        noise_floor=None if floor is None else _finite(floor["rows" if rows["positions"] else "probes"]["kl"]),
        gain_kept=_finite_or_none(gain_kept(rows, limits)),
        learned_agreement=main["changed_agreement"],
        answers_right=result["right"]["exported"] if has_answers else None,
        answers_right_trained=result["right"]["trained"] if has_answers else None,
        kl_from_base=_finite_or_none(main["exported_from_base"]),
        kl_from_base_trained=_finite_or_none(main["trained_from_base"]),
        probes=result["probes_compared"],
        probe_kl=_finite(probes["mean_kl"]) if probes["positions"] else None,
        reference=result["origin"],
        memory_bytes=result["memory_bytes"],
    )


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700.0))


def _finite(value: float) -> float:
    """Return a number that JSON can carry.

    The metrics of a broken model may be infinite or NaN.
    """
    return value if math.isfinite(value) else 1e300


def _finite_or_none(value: float | None) -> float | None:
    return None if value is None else _finite(value)
