"""Rules about the adapter: its variant, its layers, and its new tokens."""

from __future__ import annotations

from gemtune.errors import Problem
from gemtune.families import adapted_layers, embeddings
from gemtune.request.facts import Facts
from gemtune.request.rules.model import family_of, size_of
from gemtune.request.spec import TrainRequest

# Fields that have their defaults unless PEFT trains an adapter.
OPTIONS = ("target_modules", "use_rslora", "use_dora", "train_embeddings")
# Fields of every method.
OF_EMBEDDINGS = ("new_tokens",)

_WHY_NOT_WITH_FULL = {"train_embeddings": "method Full trains the embedding anyway, with all other weights"}


def options(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse options of an adapter where there is none, or with unsloth.

    unsloth computes adapters by its own kernels, which were not compared with PEFT for these options.
    """
    config = request.training_config
    stated = [name for name in (*OPTIONS, *OF_EMBEDDINGS) if config.differs_from_default(name)]
    problems = []
    for name in stated:
        loc = ("training_config", name)
        if config.method == "Full" and name in OPTIONS:
            message = _WHY_NOT_WITH_FULL.get(name, "method Full trains no adapter")
            problems.append(Problem(loc, message, "field_without_use", "leave it out"))
        elif config.provider == "unsloth":
            hint = "use provider huggingface, or leave it out"
            message = "provider unsloth was not tried with this field"
            problems.append(Problem(loc, message, "not_with_unsloth", hint))
    return problems


def new_tokens(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse tokens that are listed twice, or that the model has no place for.

    The prepare step, which has the tokenizer, checks whether they are new.
    """
    texts = request.training_config.new_tokens
    if texts is None:
        return []
    if len(set(texts)) < len(texts):
        return [Problem(embeddings.LOC, "a token is listed twice", "token_exists", "list each one once")]
    problem = embeddings.new_tokens_problem(size_of(request, facts))
    return [] if problem is None else [problem]


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
