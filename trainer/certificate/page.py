"""Page of a certificate, certificate.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXPLANATION = (
    "Positions are those that predict a token of an answer. KL is the divergence KL(trained || exported) of the "
    "next-token distributions over the whole vocabulary; the noise floor is what the same rounding costs the base "
    "model. Probes are fixed conversations: several turns, system messages, blanks, Unicode, code. What training "
    "changed is the difference of log-probabilities from those of the base model. The share kept is the coefficient "
    "of a regression: the export's difference on the trained model's.\n"
)


def markdown(stored: Mapping[str, Any]) -> str:
    """Return the page of what certificate.json holds."""
    metrics = stored["figures"]
    prompts = f"{metrics['prompts_identical']} of {metrics['prompts']}"
    rows = [f"prompts with the same tokens as in training | {prompts} | all | yes"]
    rows += [
        f"{check['name']} | {check['value']} | {check['limit']} | {'yes' if check['passed'] else '**no**'}"
        for check in stored["checks"]
    ]
    perplexity = f"{metrics['perplexity']:.4f} (trained: {metrics['perplexity_trained']:.4f})"
    facts = [f"Perplexity: {perplexity}."]
    if metrics["noise_floor"] is not None:
        facts.append(f"Noise floor: {metrics['noise_floor']:.6f} nats per position.")
    if metrics["kl_from_base"] is not None:
        distance = f"{metrics['kl_from_base']:.4f} (trained: {metrics['kl_from_base_trained']:.4f})"
        facts.append(f"KL from the base model: {distance}.")
    cost = "" if metrics["seconds"] is None else f" It took {metrics['seconds']:.0f} s"
    cost += "" if metrics["memory_bytes"] is None else f", and {metrics['memory_bytes'] / 1e9:.1f} GB of memory"
    media = f" ({metrics['media_rows']} with pictures or audio)" if metrics["media_rows"] else ""
    lines = [
        "# Parity certificate\n",
        *([_accepted(metrics["losses"])] if metrics["verdict"] == "loss_accepted" else []),
        f"The export ({stored['format']}, {stored['quantization']}) was loaded from these files by "
        f"{stored['runtime']}, in a process of its own, and compared on {metrics['rows']} {metrics['source']}{media} "
        f"and {metrics['probes']} probes with the trained model, {metrics['reference']}. Every tensor and every "
        f"setting was compared with those of the training.{cost}.\n",
        "| metric | value | limit of the format | within |\n|---|---|---|---|",
        *(f"| {row} |" for row in rows),
        f"\nWhy these limits: {stored['limits']['reason']}.\n",
        f"{' '.join(facts)}\n",
        EXPLANATION,
        *([f"{stored['note']}\n"] if stored["note"] else []),
        *(f"Known difference: {difference}.\n" for difference in metrics["differences"]),
        "## Answers\n\nEach token is the most likely one.\n",
    ]
    for answer in stored["answers"]:
        trained, exported = _line(answer["trained"]), _line(answer["exported"])
        lines.append(f"**{_line(answer['prompt'])}**\n\n- trained: {trained}\n- exported: {exported}\n")
    return "\n".join(lines)


def _accepted(losses: list[str]) -> str:
    return (
        "**This export loses more of the training than its format may.** The request accepted that "
        f"(`accept_loss`): {'; '.join(losses)}.\n"
    )


def _line(text: str) -> str:
    return " ".join(text.split())[:300].replace("*", "\\*").replace("<", "&lt;") or "(nothing)"
