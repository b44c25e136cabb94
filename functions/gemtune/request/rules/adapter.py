"""Rules about the adapter: its variant, and the layers that it is on."""

from __future__ import annotations

from gemtune.errors import Problem
from gemtune.families import adapted_layers
from gemtune.request.facts import Facts
from gemtune.request.rules.model import family_of, size_of
from gemtune.request.spec import TrainRequest

# Fields that have their defaults unless PEFT trains an adapter.
OPTIONS = ("target_modules", "use_rslora", "use_dora")


def options(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse options of an adapter where there is none, or with unsloth.

    unsloth computes adapters by its own kernels, which were not compared with PEFT for these options.
    """
    config = request.training_config
    stated = [name for name in OPTIONS if config.differs_from_default(name)]
    if config.method == "Full":
        message = "method Full trains no adapter"
        return [Problem(("training_config", name), message, "field_without_use", "leave it out") for name in stated]
    if config.provider == "unsloth":
        message, hint = "provider unsloth was not tried with this field", "use provider huggingface, or leave it out"
        return [Problem(("training_config", name), message, "not_with_unsloth", hint) for name in stated]
    return []


def target_modules(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse layers that the language model does not have.

    The family decides. If it is not known here, the prepare step checks it by config.json.
    """
    config, family = request.training_config, family_of(request, facts)
    if family is None or config.method == "Full":
        return []
    size = size_of(request, facts)
    problem = adapted_layers.problem_of(config.target_modules, family, size, dora=config.use_dora)
    return [] if problem is None else [problem]
