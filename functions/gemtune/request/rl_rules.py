"""Rules of reinforcement learning: what goes together, and what each reward needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gemtune.errors import Problem
from gemtune.request import patterns, rl_spec, schemas
from gemtune.request.rl_spec import DpoConfig, GrpoConfig, JsonSchema, Length, Regex, Reward
from gemtune.request.rule import Loc, Rule
from gemtune.request.spec import DEFAULT_SEQ_LENGTH, TrainingConfig, TrainRequest

_TRAINING: Loc = ("training_config",)
_RL: Loc = (*_TRAINING, "rl_config")


def _rl_config(request: TrainRequest) -> list[Problem]:
    config = request.training_config
    if config.method == "RL" and config.rl_config is None:
        hint = "send {algorithm: grpo, rewards: [...]} or {algorithm: dpo}"
        return [Problem(_RL, "method RL needs an rl_config", "missing_field", hint)]
    if config.method != "RL" and config.rl_config is not None:
        message = f"rl_config has no use with method {config.method}"
        return [Problem(_RL, message, "field_without_use", "set method to RL, or leave rl_config out")]
    return []


def _packing(request: TrainRequest) -> list[Problem]:
    config = request.training_config
    if config.method != "RL" or not config.packing:
        return []
    message = "method RL compares rows, so none are packed"
    return [Problem((*_TRAINING, "packing"), message, "packing_not_possible", "use false")]


def _without_use(request: TrainRequest) -> list[Problem]:
    """Fields that change nothing with RL. Their defaults are let through: the documented example sends some along."""
    config, problems = request.training_config, []
    if config.method != "RL":
        return []
    for name, why in (
        ("lora_dropout", "RL compares probabilities, which dropout would blur"),
        ("evaluation_metrics", "RL reports rewards or margins instead"),
    ):
        if name in config.model_fields_set and getattr(config, name) != _default(name):
            problems.append(Problem((*_TRAINING, name), f"it has no use: {why}", "field_without_use", "leave it out"))
    return problems


def _default(name: str) -> object:
    return TrainingConfig.model_fields[name].default


def _dpo(request: TrainRequest) -> list[Problem]:
    rl = request.training_config.rl_config
    if not isinstance(rl, DpoConfig):
        return []
    loc = (*_RL, "label_smoothing")
    if rl.loss_type == "exo_pair" and rl.label_smoothing == 0:
        return [Problem(loc, "exo_pair needs label_smoothing above 0", "missing_field", "its paper recommends 0.001")]
    if rl.loss_type not in rl_spec.SMOOTHED and rl.label_smoothing > 0:
        message = f"label_smoothing has no use with loss_type {rl.loss_type}"
        hint = f"leave it out, or use one of {', '.join(sorted(rl_spec.SMOOTHED))}"
        return [Problem(loc, message, "field_without_use", hint)]
    return []


def _groups(request: TrainRequest) -> list[Problem]:
    config, rl = request.training_config, request.training_config.rl_config
    if not isinstance(rl, GrpoConfig):
        return []
    completions = config.batch_size * config.gradient_accumulation_steps
    if completions % rl.num_generations == 0:
        return []
    message = f"a train_step has {completions} completions, which groups of {rl.num_generations} do not divide"
    hint = "batch_size times gradient_accumulation_steps has to be a multiple of num_generations"
    return [Problem((*_RL, "num_generations"), message, "groups_not_whole", hint)]


def _completion_length(request: TrainRequest) -> list[Problem]:
    config, rl = request.training_config, request.training_config.rl_config
    if not isinstance(rl, GrpoConfig):
        return []
    whole = config.max_seq_length or DEFAULT_SEQ_LENGTH
    if rl.max_completion_length < whole:
        return []
    message = f"a row has at most {whole} tokens, which leaves none for the prompt"
    hint = "raise max_seq_length, or lower max_completion_length"
    return [Problem((*_RL, "max_completion_length"), message, "completion_too_long", hint)]


def _rewards(request: TrainRequest) -> list[Problem]:
    rl = request.training_config.rl_config
    if not isinstance(rl, GrpoConfig):
        return []
    loc = (*_RL, "rewards")
    if not rl.rewards:
        return [Problem(loc, "GRPO needs at least one reward", "missing_field", "e.g. {type: exact_answer}")]
    problems = []
    if all(reward.weight == 0 for reward in rl.rewards):
        problems.append(Problem(loc, "every weight is 0", "nothing_to_learn", "give one reward another weight"))
    for name, count in Counter(rl_spec.names(rl.rewards)).items():
        if count > 1:
            message = f"{count} rewards are called {name}"
            problems.append(Problem(loc, message, "repeated_value", "give each a name of its own"))
    for index, reward in enumerate(rl.rewards):
        problems += _problems_of(reward, rl, (*loc, index))
    return problems


def _problems_of(reward: Reward, rl: GrpoConfig, loc: Loc) -> Iterator[Problem]:
    if isinstance(reward, Regex):
        try:
            patterns.compiled(reward.pattern)
        except ValueError as error:
            yield Problem((*loc, "pattern"), f"this is no RE2 pattern: {error}", "bad_pattern", "see RE2's syntax")
    elif isinstance(reward, JsonSchema):
        try:
            schemas.validator(reward.json_schema)
        except ValueError as error:
            hint = "use JSON Schema 2020-12 with its definitions inside"
            yield Problem((*loc, "json_schema"), f"this schema cannot be used: {error}", "bad_schema", hint)
    elif isinstance(reward, Length):
        yield from _length(reward, rl, loc)


def _length(reward: Length, rl: GrpoConfig, loc: Loc) -> Iterator[Problem]:
    if reward.at_least is None and reward.at_most is None:
        yield Problem(loc, "length needs at_least or at_most", "missing_field", "give one of them, or both")
        return
    if reward.at_least is not None and reward.at_most is not None and reward.at_least > reward.at_most:
        yield Problem(loc, "at_least is more than at_most", "empty_range", "lower at_least")
    if reward.at_least is not None and reward.at_least > rl.max_completion_length:
        message = f"no completion has more than max_completion_length ({rl.max_completion_length}) tokens"
        yield Problem((*loc, "at_least"), message, "out_of_reach", "lower at_least, or raise max_completion_length")


def _training(*names: str) -> tuple[Loc, ...]:
    return tuple((*_TRAINING, name) for name in names)


RL_RULES: tuple[Rule, ...] = (
    Rule(_training("method", "rl_config"), _rl_config),
    Rule(_training("method", "packing"), _packing),
    Rule(_training("method", "lora_dropout", "evaluation_metrics"), _without_use),
    Rule((_RL,), _dpo),
    Rule((_RL,), _rewards),
    Rule(_training("batch_size", "gradient_accumulation_steps", "rl_config"), _groups),
    Rule(_training("max_seq_length", "rl_config"), _completion_length),
)
