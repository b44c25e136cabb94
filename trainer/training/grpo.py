"""Group relative policy optimization by TRL, on prompts of the prepare step.

GRPO (Shao et al., arXiv:2402.03300), its variants and the sampling are TRL's; the loss head and the evaluation are
ours.
"""

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
from gemtune.jobs.parts.metrics import EvaluationMetrics
from gemtune.request import rl_spec
from trainer.rows import rewards
from trainer.rows.prepared import PICTURES
from trainer.training.interface import Hooks, Setup
from trainer.training.job_trainer import attach_hooks
from trainer.training.picture_batches import PictureCollator
from trainer.training.reinforcement import (
    choose_reference,
    completion_log_probabilities,
    log_evaluation,
    stop_at_turn_end,
    tokenizer_of,
    trl_arguments,
)

if TYPE_CHECKING:
    from trainer.base_model.language_model import LanguageModel

# CISPO (arXiv:2506.13585) clips importance weights from above only, at this value. TRL's default of 0.2, which in other
# losses is a distance from 1, would shrink all of them.
CISPO_EPSILON_HIGH = 5.0
# Held-out prompts per batch. Samples depend on it, so it must not depend on a request's batch_size.
EVAL_PROMPTS = 8


class EpochSampler(RepeatSampler):
    """TRL's RepeatSampler, seeded by seed and epoch.

    A training that resumes in a later epoch so has that epoch's order of prompts.
    """

    def set_epoch(self, epoch: int) -> None:
        """Seed the order of an epoch; transformers calls this at its start."""
        assert self.seed is not None
        self.generator.manual_seed(self.seed + epoch)


class GrpoTrainer(GRPOTrainer):
    """TRL's GRPOTrainer with our loss head, pictures and evaluation.

    Evaluation samples the same completions for the same weights, whatever batch_size is and whatever was sampled
    before. pictures: the collator in vision jobs; TRL itself is given no pictures, since it would process them in its
    own way. tokens_seen: see JobTrainer.
    """

    model: LanguageModel
    hooks: Hooks
    compute_dtype: torch.dtype
    tokens_seen = 0
    pictures: PictureCollator | None = None
    _evaluated: list[torch.Tensor]
    _pixels: list[torch.Tensor]

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no model card for checkpoints; export writes one."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Add each prompt's pixels to TRL's completions.

        TRL then shuffles them, and splits them into batches, with the completions.
        """
        if self.pictures is None:
            return dict(super()._generate_and_score_completions(inputs))
        self._pixels = self.pictures.pixels([row[PICTURES] for row in inputs])
        return super()._generate_and_score_completions(inputs) | {"pixel_values": self._pixels}

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Return the prompts, which are token lists, and more model inputs.

        These are the type ids per prompt, which TRL pads on the left like the tokens, and the pixels of all prompts;
        see `PictureInputs`. Without pictures there are none.
        """
        if self.pictures is None:
            return prompts, None, {}
        type_ids = [[int(token == self.pictures.soft_token) for token in prompt] for prompt in prompts]
        return prompts, None, {self.pictures.format.type_ids: type_ids, **self.pictures.pixel_inputs(self._pixels)}

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        **options: Any,
    ) -> Any:
        """Return log-probabilities and entropies of completions, by our head.

        input_ids, attention_mask: (rows, positions). logits_to_keep: tokens of the longest completion, which are last
        in each row. options: TRL's. `pixel_values`: of a batch that is trained on; absent when the completions that
        were just sampled are scored. `compute_entropy`: whether to return entropies. With `compute_aux_loss`, for a
        mixture of experts, TRL's own method is called.

        Returns (rows, logits_to_keep) in float32, the same for entropies or None, and None for the auxiliary loss.
        """
        if options.get("compute_aux_loss"):
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, **options
            )
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.pictures is not None:
            pixels = options.get("pixel_values")
            inputs |= self.pictures.inputs(input_ids, self._pixels if pixels is None else [pixels])
        completion_mask = attention_mask.clone()
        completion_mask[:, :-logits_to_keep] = 0
        values = completion_log_probabilities(model, inputs, completion_mask, self.compute_dtype, self.temperature)
        logps, entropies = (value[:, -logits_to_keep:] for value in values)
        return logps, entropies if options.get("compute_entropy") else None, None

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        """Sample completions.

        Raises StepError `loss_not_finite` if the model's probabilities are NaN.
        """
        try:
            return super()._generate_single_turn(*args, **kwargs)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if "probability tensor" not in str(error):
                raise
            message = f"the model's probabilities are no numbers any more after train_step {self.state.global_step}"
            raise StepError("loss_not_finite", message, hint="lower learning_rate, or raise warmup_ratio") from error

    def _get_train_sampler(self, dataset: Dataset | None = None) -> EpochSampler:
        """Return TRL's sampler with our order of epochs."""
        sampler = super()._get_train_sampler(dataset)
        assert isinstance(sampler, RepeatSampler)
        return EpochSampler(
            sampler.data_source,
            sampler.mini_repeat_count,
            sampler.batch_size,
            sampler.repeat_count,
            sampler.shuffle,
            sampler.seed,
        )

    def _calculate_rewards(
        self, inputs: Any, prompts: Sequence[Any], completions: Any, completion_ids_list: Sequence[Any]
    ) -> torch.Tensor:
        """Return TRL's rewards (prompts, reward functions).

        In training, count the tokens; in evaluation, collect the rewards.
        """
        values: torch.Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.model.training:
            self.tokens_seen += sum(map(len, prompts)) + sum(map(len, completion_ids_list))
        else:
            self._evaluated.append(values.double().cpu())
        return values

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, log the metrics and call the evaluation hooks."""
        return log_evaluation(self, self.evaluation_metrics())

    def evaluation_metrics(self) -> EvaluationMetrics:
        """Return the mean rewards of one completion per held-out prompt.

        Completions are sampled as in training, but seeded by the job's seed; the state of the random generators is
        restored afterwards.
        """
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
        rewards_per_prompt = torch.cat(self._evaluated)  # (prompts, rewards), NaN where a reward function returned None
        reward = float((rewards_per_prompt * self.reward_weights.double()).nansum(dim=1).mean())
        parts = zip(self.reward_func_names, rewards_per_prompt.nanmean(dim=0).tolist(), strict=True)
        return EvaluationMetrics(reward=reward, rewards={name: part for name, part in parts if not math.isnan(part)})

    def unlogged_metrics(self) -> dict[str, list[float]]:
        """Return TRL's metrics since the last log entry."""
        return self._metrics["train"]


def make(setup: Setup) -> GrpoTrainer:
    """Return a trainer for the token files of the prepare step."""
    loaded, rl, pictures = setup.loaded, setup.config.rl_config, setup.pictures
    assert isinstance(rl, rl_spec.GrpoConfig)
    tokenizer = tokenizer_of(setup.base)
    stop_at_turn_end(loaded.model, tokenizer)
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
            # A completion with a picture's token would need a picture.
            generation_kwargs=None if pictures is None else {"suppress_tokens": [pictures.soft_token]},
        ),
        train_dataset=_prompts(setup.train),
        eval_dataset=None if setup.held_out is None else _prompts(setup.held_out),
        processing_class=tokenizer,
    )
    trainer.pictures = pictures
    choose_reference(trainer, setup)
    trainer.compute_dtype = loaded.compute_dtype
    attach_hooks(trainer, setup.hooks, setup.config)
    return trainer


def _prompts(path: Path) -> Dataset:
    """Read a token file of prompts as a dataset, with the column TRL expects."""
    return Dataset(pq.read_table(path).rename_columns({"prompt_ids": "prompt"}))
