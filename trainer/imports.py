"""Packages that this process has no use for, and that others would import because they are installed."""

from __future__ import annotations

import sys

from gemtune.job import Step
from gemtune.spec import Spec


def leave_out_unused(step: Step, spec: Spec) -> None:
    """Make importing them fail, which transformers and PEFT take for "not installed". Called once, before either is
    imported: a second and more, and a quarter of a gigabyte, of a training that needs neither 4 bits nor TRL."""
    config = spec.training_config
    if step is not Step.TRAIN or config.provider == "unsloth":
        return
    unused = {"bitsandbytes": config.method != "QLoRA", "datasets": config.method != "RL"}
    for package, is_unused in unused.items():
        if is_unused and package not in sys.modules:
            sys.modules[package] = None  # type: ignore[assignment]  # what the import system knows as "cannot be had"
