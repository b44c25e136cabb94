"""Rules about reinforcement learning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from gemtune.errors import Problem
from gemtune.redaction import redact
from gemtune.request import rl_spec
from gemtune.request.contract import Loc
from gemtune.request.facts import Facts
from gemtune.request.rl_spec import DpoConfig, GrpoConfig, KtoConfig
from gemtune.request.spec import TrainRequest
from gemtune.request.training_config import DEFAULT_SEQ_LENGTH

_TRAINING: Loc = ("training_config",)
_RL: Loc = (*_TRAINING, "rl_config")


def infer_rl_algorithm(request: TrainRequest, facts: Facts) -> TrainRequest:
    """Return the request with the rl_config that its format or its rows imply.

    It stays as it is if it has an rl_config, or if it states no format and the columns of its dataset are not known.
    """
    columns = None if facts.dataset is None else facts.dataset.columns
    if not request.infers_rl_algorithm or (columns is None and request.dataset_format is None):
        return request
    config = request.training_config
    rl_config = rl_spec.infer_rl_config(
        _as_formats_call_them(columns or (), request),
        stated=request.dataset_format,
        completions=config.batch_size * config.gradient_accumulation_steps,
        max_seq_length=config.max_seq_length or DEFAULT_SEQ_LENGTH,
    )
    return request.model_copy(update={"training_config": config.model_copy(update={"rl_config": rl_config})})


def _as_formats_call_them(columns: Collection[str], request: TrainRequest) -> set[str]:
    """Return a dataset's columns by the names that dataset_columns gives."""
    names = {column: name for name, column in request.dataset_columns.items() if column is not None}
    ignored = {name for name, column in request.dataset_columns.items() if column is None}
    return {names.get(column, column) for column in columns} - ignored


def rl_config(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse rl_config without method RL, and RL without an algorithm."""
    config = request.training_config
    if request.infers_rl_algorithm:
        return _no_algorithm(facts)
    if config.method != "RL" and config.rl_config is not None:
        message = f"rl_config has no effect with method {config.method}"
        return [Problem(_RL, message, "field_without_use", "set method to RL, or leave rl_config out")]
    return []


def dataset_format(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse a dataset_format whose rows are for another method."""
    config, stated = request.training_config, request.dataset_format
    if stated is None:
        return []
    allowed = rl_spec.row_formats(config.method, config.rl_config)
    if stated in allowed:
        return []
    whose = f"method {config.method}" if config.rl_config is None else config.rl_config.algorithm.upper()
    message = f"{stated} is a format of other rows than those of {whose}"
    hint = f"use one of {', '.join(allowed)}, or leave it out"
    return [Problem(("dataset_format",), message, "format_of_other_method", hint)]


def _no_algorithm(facts: Facts) -> list[Problem]:
    """Return why the rows do not imply an algorithm.

    If there is no dataset, there is no problem here: another rule reports it.
    """
    if facts.dataset is None or not facts.dataset.exists:
        return []
    message = "method RL needs an rl_config, because the first rows of the dataset cannot be read now"
    if facts.dataset.columns is not None:
        names = ", ".join(redact(name)[:40] for name in sorted(facts.dataset.columns)[:10])
        message = (
            "method RL infers its algorithm from rows with chosen and rejected, with label, or with answer; these have "
            f"{names}"
        )
    hint = "send {algorithm: grpo, rewards: [...]}, {algorithm: dpo} or {algorithm: kto}; or dataset_format"
    return [Problem(_RL, message, "missing_field", hint)]


def packing(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse packing with method RL, which compares rows."""
    config = request.training_config
    if config.method != "RL" or not config.packing:
        return []
    message = "method RL compares rows, so they cannot be packed"
    return [Problem((*_TRAINING, "packing"), message, "packing_not_possible", "use false")]


def fields_without_use(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse fields that have no effect with method RL.

    Their defaults are accepted, because the documented example has some of them.
    """
    config = request.training_config
    if config.method != "RL":
        return []
    reasons = {
        "lora_dropout": "RL compares probabilities, which dropout would blur",
        "train_on": "RL learns answers as a whole",
    }
    if config.evaluation_metrics != ["loss"] or isinstance(config.rl_config, GrpoConfig | None):  # others have a loss
        reasons["evaluation_metrics"] = "RL reports rewards or margins instead"
    return [
        Problem((*_TRAINING, name), f"this field has no effect: {reason}", "field_without_use", "leave it out")
        for name, reason in reasons.items()
        if config.differs_from_default(name)
    ]


def cut_prompts(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse to cut the prompts of GRPO, which would ask something else."""
    config = request.training_config
    if config.too_long != "cut" or not isinstance(config.rl_config, GrpoConfig):
        return []
    message = "GRPO never cuts prompts, because a shortened one asks something else"
    return [Problem((*_TRAINING, "too_long"), message, "field_without_use", "use drop or refuse")]


def dpo(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse label_smoothing that does not go with the DPO loss."""
    rl = request.training_config.rl_config
    if not isinstance(rl, DpoConfig):
        return []
    loc = (*_RL, "label_smoothing")
    if rl.loss_type == "exo_pair" and rl.label_smoothing == 0:
        return [
            Problem(
                loc, "loss_type exo_pair needs label_smoothing above 0", "missing_field", "its paper recommends 0.001"
            )
        ]
    if rl.loss_type not in rl_spec.SMOOTHED and rl.label_smoothing > 0:
        message = f"label_smoothing has no effect with loss_type {rl.loss_type}"
        hint = f"leave it out, or use one of {', '.join(sorted(rl_spec.SMOOTHED))}"
        return [Problem(loc, message, "field_without_use", hint)]
    return []


def kto(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse batches of one row with KTO's loss, which compares rows."""
    config, rl = request.training_config, request.training_config.rl_config
    if not isinstance(rl, KtoConfig) or rl.loss_type != "kto" or config.batch_size > 1:
        return []
    message = "KTO estimates the KL divergence from the answers of other rows in a batch, and batch_size is 1"
    hint = "set batch_size to 2 or more, or loss_type to apo_zero_unpaired"
    return [Problem((*_TRAINING, "batch_size"), message, "batch_of_one", hint)]


def groups(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse a train_step whose completions do not make whole groups."""
    config, rl = request.training_config, request.training_config.rl_config
    if not isinstance(rl, GrpoConfig):
        return []
    completions = config.batch_size * config.gradient_accumulation_steps
    if completions % rl.num_generations == 0:
        return []
    message = f"a train_step has {completions} completions, which do not make whole groups of {rl.num_generations}"
    hint = "batch_size times gradient_accumulation_steps has to be a multiple of num_generations"
    return [Problem((*_RL, "num_generations"), message, "groups_not_whole", hint)]


def completion_length(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse completions that leave no tokens for the prompt."""
    config, rl = request.training_config, request.training_config.rl_config
    if not isinstance(rl, GrpoConfig):
        return []
    max_seq_length = config.max_seq_length or DEFAULT_SEQ_LENGTH
    if rl.max_completion_length < max_seq_length:
        return []
    message = f"a row has at most {max_seq_length} tokens, which leaves none for the prompt"
    hint = "raise max_seq_length, or lower max_completion_length"
    return [Problem((*_RL, "max_completion_length"), message, "completion_too_long", hint)]


def rewards(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse rewards that are missing, ambiguous or invalid."""
    rl = request.training_config.rl_config
    if not isinstance(rl, GrpoConfig):
        return []
    loc = (*_RL, "rewards")
    if not rl.rewards:
        return [Problem(loc, "GRPO needs at least one reward", "missing_field", "e.g. {type: exact_answer}")]
    problems = []
    if all(reward.weight == 0 for reward in rl.rewards):
        problems.append(
            Problem(loc, "every reward has weight 0", "nothing_to_learn", "set another weight for one of them")
        )
    for name, count in Counter(rl_spec.reward_names(rl.rewards)).items():
        if count > 1:
            message = f"{count} rewards have the name {name}"
            problems.append(Problem(loc, message, "repeated_value", "set a different name for each"))
    for index, reward in enumerate(rl.rewards):
        problems += reward.problems((*loc, index), max_completion_length=rl.max_completion_length)
    return problems
