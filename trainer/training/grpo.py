"""Group relative policy optimization (Shao et al., arXiv:2402.03300) by TRL, on prompts that are tokenized already."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from gemtune.errors import StepError
from gemtune.jobs.record import EvaluationMetrics
from gemtune.request import rl_spec
from trainer.rows import rewards
from trainer.rows.prepared import PICTURES
from trainer.training.interface import Hooks, Setup
from trainer.training.job_trainer import attach
from trainer.training.picture_batches import Sight
from trainer.training.reinforcement import (
    end_turns,
    log_figures,
    log_probabilities_in,
    settle,
    tokenizer_of,
    trl_arguments,
)

if TYPE_CHECKING:
    from trainer.base_model.language_model import LanguageModel

# CISPO clips weights from above only; with the bound of the other losses it would shrink them all (arXiv:2506.13585).
CISPO_EPSILON_HIGH = 5.0
# Held-out prompts that are completed together. What is sampled depends on it, and shall not depend on a request.
EVAL_PROMPTS = 8


class Epochs(RepeatSampler):
    """TRL's order of prompts, drawn from the seed and the epoch: a training that resumes in a later epoch goes on in
    that epoch's order."""

    def set_epoch(self, epoch: int) -> None:
        assert self.seed is not None
        self.generator.manual_seed(self.seed + epoch)


class GrpoTrainer(GRPOTrainer):
    """TRL's trainer with evaluation that no batch_size and no earlier sampling changes, on tokens of `prepare`.

    TRL shows pictures that its own processor reads, and is not told of any here. sight: of a vision job."""

    model: LanguageModel
    hooks: Hooks
    compute_dtype: torch.dtype
    tokens_seen = 0
    sight: Sight | None = None
    _evaluated: list[torch.Tensor]
    _pixels: list[torch.Tensor]

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Checkpoints have none."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """The pixels of each prompt's pictures are kept with its completion: they are put into another order, and
        divided into batches."""
        if self.sight is None:
            return dict(super()._generate_and_score_completions(inputs))
        self._pixels = self.sight.pixels([row[PICTURES] for row in inputs])
        return super()._generate_and_score_completions(inputs) | {"pixel_values": self._pixels}

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """What completions are sampled from; TRL fills lists up in front, as it does the tokens."""
        if self.sight is None:
            return prompts, None, {}
        kinds = [[int(token == self.sight.soft_token) for token in prompt] for prompt in prompts]
        pixels = torch.cat(self._pixels)
        return prompts, None, {"token_type_ids": kinds} | ({"pixel_values": pixels} if len(pixels) else {})

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        **asked: Any,
    ) -> Any:
        """Score completions by the loss head of supervised training. A mixture of experts that is asked for its balance
        too is scored by TRL's.

        asked: `pixel_values` are those of a batch that is trained on; without them, the prompts' whose completions are
        scored. `compute_entropy` and `compute_aux_loss`: whether they are wanted."""
        if asked.get("compute_aux_loss"):
            return super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, **asked)
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.sight is not None:
            pixels = asked.get("pixel_values")
            inputs |= self.sight.inputs(input_ids, self._pixels if pixels is None else [pixels])
        answered = attention_mask.clone()
        answered[:, :-logits_to_keep] = 0
        found = log_probabilities_in(model, inputs, answered, self.compute_dtype, self.temperature)
        logs, entropies = (of[:, -logits_to_keep:] for of in found)
        return logs, entropies if asked.get("compute_entropy") else None, None

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._generate_single_turn(*args, **kwargs)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if "probability tensor" not in str(error):
                raise
            message = f"the model's probabilities are no numbers any more after train_step {self.state.global_step}"
            raise StepError("loss_not_finite", message, hint="lower learning_rate, or raise warmup_ratio") from error

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Epochs:
        made = super()._get_train_sampler(dataset)
        assert isinstance(made, RepeatSampler)
        return Epochs(
            made.data_source, made.mini_repeat_count, made.batch_size, made.repeat_count, made.shuffle, made.seed
        )

    def _calculate_rewards(
        self, inputs: Any, prompts: Sequence[Any], completions: Any, completion_ids_list: Sequence[Any]
    ) -> torch.Tensor:
        found: torch.Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.model.training:
            self.tokens_seen += sum(map(len, prompts)) + sum(map(len, completion_ids_list))
        else:
            self._evaluated.append(found.double().cpu())
        return found

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        return log_figures(self, self.figures())

    def figures(self) -> EvaluationMetrics:
        """Of the model as it is now: the mean reward of one completion a held-out prompt, sampled as in training, but
        from the seed: the same model gets the same, and training goes on as if nothing had been sampled."""
        was_training = self.model.training
        self.model.eval()
        self._evaluated = []
        try:
            with torch.random.fork_rng():
                torch.manual_seed(self.args.seed)
                for batch in self.get_eval_dataloader():
                    self._prepare_inputs(batch)
        finally:
            self.model.train(was_training)
            self._metrics["eval"].clear()
        judged = torch.cat(self._evaluated)  # (prompts, rewards), no number where a reward cannot judge
        reward = float((judged * self.reward_weights.double()).nansum(dim=1).mean())
        parts = zip(self.reward_func_names, judged.nanmean(dim=0).tolist(), strict=True)
        return EvaluationMetrics(reward=reward, rewards={name: part for name, part in parts if not math.isnan(part)})

    def unlogged(self) -> dict[str, list[float]]:
        return self._metrics["train"]


def make(setup: Setup) -> GrpoTrainer:
    """A trainer for token files of `prepare`, with everything that the request says."""
    loaded, rl, sight = setup.loaded, setup.config.rl_config, setup.sight
    assert isinstance(rl, rl_spec.GrpoConfig)
    tokenizer = tokenizer_of(setup.base)
    end_turns(loaded.model, tokenizer)
    trainer = GrpoTrainer(
        model=loaded.model,
        reward_funcs=[*rewards.reward_functions(rl.rewards)],
        args=GRPOConfig(
            **trl_arguments(setup) | {"per_device_eval_batch_size": EVAL_PROMPTS},
            num_generations=rl.num_generations,
            num_generations_eval=1,
            max_completion_length=rl.max_completion_length,
            temperature=rl.temperature,
            beta=rl.beta,
            loss_type=rl.loss_type,
            importance_sampling_level="sequence" if rl.loss_type == "luspo" else "token",
            epsilon_high=CISPO_EPSILON_HIGH if rl.loss_type == "cispo" else None,
            reward_weights=[reward.weight for reward in rl.rewards],
            # A completion with a picture's token would ask for a picture that nobody has.
            generation_kwargs=None if sight is None else {"suppress_tokens": [sight.soft_token]},
        ),
        train_dataset=_prompts(setup.train),
        eval_dataset=None if setup.held_out is None else _prompts(setup.held_out),
        processing_class=tokenizer,
    )
    trainer.sight = sight
    settle(trainer, loaded)
    attach(trainer, setup.hooks, setup.config)
    return trainer


def _prompts(path: Path) -> Dataset:
    return Dataset(pq.read_table(path).rename_columns({"prompt_ids": "prompt"}))
