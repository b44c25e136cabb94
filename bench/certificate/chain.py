"""One adapter through SFT, DPO and GRPO, beside plain TRL and PEFT.

`python -m bench.certificate.chain`. Two chains begin with the same fresh adapter on a tiny Gemma 3 and get the same
rows: three jobs of this project that go on from each other (`base_job_id`), and TRL's three trainers on PEFT's
adapter. Neither uses anything that the other trained. Nor does dropout differ between them: there is none. Prints for
each stage how far losses and adapters are apart, and at the end how far the merged export and the GGUF files are from
PEFT's own merge of the other chain. Exits with 1 if a limit is exceeded. llama.cpp is needed (`make llama`).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from gemtune.jobs.status import Step
from gemtune.request.exports import Format, Quantization
from gemtune.request.spec import ExportConfig
from gemtune.training_files.loss_history import loss_history
from tests import preference_rows, rows, tiny_gemma
from tests.trainer.conftest import Bench, enlarge_embeddings
from tests.trainer.training import plain_trl as peers
from trainer.export import trained_weights
from trainer.gguf.llama_library import LlamaModel
from trainer.steps import export_files

# Largest difference of losses, and of adapters as a share of what the stage changed.
LOSS, SHARE = 1e-4, 0.1
SFT: Mapping[str, Any] = {
    "max_steps": 6,
    "batch_size": 4,
    "lora_rank": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "learning_rate": 2e-3,
}
# Learning rates of the other stages, with which neither is over after its first train_step.
RATES = {"DPO": 1e-4, "GRPO": 2e-3}
ADAPTER = "adapter_model.safetensors"
# Largest KL divergence, in nats, of an export from PEFT's merge in float32: what rounding to its format costs.
EXPORTS: Mapping[tuple[Format, Quantization], float] = {
    ("merged", "none"): 0.01,
    ("gguf", "f16"): 0.01,
    ("gguf", "q8_0"): 0.02,
}
# Share of positions where an export prefers the same token.
AGREEMENT = 0.95


@dataclass(frozen=True, slots=True)
class Stage:
    """Comparison of one stage of both chains.

    losses: of each train_step, ours and TRL's. weight: largest difference of the adapters; moved: largest change of
    ours by the stage.
    """

    name: str
    losses: Sequence[tuple[float, float]]
    weight: float
    moved: float

    @property
    def loss(self) -> float:
        """Largest difference of losses."""
        return max(abs(ours - theirs) for ours, theirs in self.losses)

    @property
    def agrees(self) -> bool:
        """Return whether both chains trained the same."""
        return self.loss <= LOSS and self.weight <= SHARE * self.moved


class Chains:
    """Both chains. work: an empty folder."""

    def __init__(self, work: Path):
        self._work = work
        base = enlarge_embeddings(tiny_gemma.build(work / "base", head_dim=256))
        self.bench = Bench(work / "home", base, **SFT)
        self._ours = self._theirs = self._fresh_adapter(base)
        self._model: Any = None

    def stages(self) -> Iterator[Stage]:
        """Yield the comparison of each stage."""
        self.bench.to(Step.TRAIN)
        yield self._compared("SFT", self._plain_sft())
        for name, training, plain in (("DPO", peers.DPO, peers.plain_dpo), ("GRPO", peers.GRPO, peers.plain_grpo)):
            self.bench.services.cancel(self.bench.job_id)
            make = preference_rows.pairs if name == "DPO" else preference_rows.prompts
            count, rate = 4 if name == "DPO" else 12, {"learning_rate": RATES[name]}
            job = peers.go_on(
                self.bench, make(rows.train_rows(count)), make(rows.held_out_rows(4)), **{**training, **rate}
            )
            job.to(Step.TRAIN)
            yield self._compared(name, plain(self.bench, self._theirs, self._work / name, **rate))

    def divergences(self) -> Iterator[tuple[str, float, float]]:
        """Yield of each export its name, KL divergence, and agreement."""
        merged = self._model.merge_and_unload().eval()
        tokens = self._tokens()
        with torch.no_grad():
            plain = torch.log_softmax(merged(torch.tensor([tokens])).logits[0].float(), dim=-1)
        context = self.bench.context(Step.EXPORT)
        trained = trained_weights.locate(context)
        for export_format, quantization in EXPORTS:
            config = ExportConfig.model_validate({"format": export_format, "quantization": quantization})
            work = Path(tempfile.mkdtemp(dir=self._work))
            spec = context.spec.model_copy(update={"export_config": config})
            export_files.write(replace(context, spec=spec, work=work), trained, work / "exported")
            stored = torch.log_softmax(self._logits(export_format, work / "exported", tokens), dim=-1)
            divergence = float((plain.exp() * (plain - stored[:, : plain.shape[1]])).sum(-1).mean())
            agreement = float((plain.argmax(-1) == stored.argmax(-1)).float().mean())
            yield f"{export_format} {quantization}", divergence, agreement

    def _compared(self, name: str, plain: Any) -> Stage:
        before, self._ours = self._ours, peers.adapter_folder(self.bench)
        self._theirs, self._model = self._work / f"plain-{name}", plain.model
        ours, theirs = load_file(self._ours / ADAPTER), peers.saved(plain, self._theirs)
        entries = loss_history(self.bench.services.buckets.export, self.bench.job_id, after=0)
        losses = [entry["loss"] for entry in entries if "loss" in entry]
        return Stage(
            name,
            list(zip(losses, peers.logged(plain, "loss"), strict=True)),
            peers.largest_difference(ours, theirs),
            peers.largest_difference(ours, load_file(before / ADAPTER)),
        )

    def _fresh_adapter(self, base: Path) -> Path:
        """Return the adapter with which the first job begins.

        It is that of a job with the same seed whose only train_step changes nothing.
        """
        bench = Bench(self._work / "fresh", base, **{**SFT, "max_steps": 1, "learning_rate": 1e-12})
        folder = peers.adapter_folder(bench.to(Step.TRAIN))
        weights = {
            # The optimizer would move A by a whole step, however small B is.
            name: torch.zeros_like(weight) if "lora_B" in name else weight
            for name, weight in load_file(folder / ADAPTER).items()
        }
        save_file(weights, folder / ADAPTER, metadata={"format": "pt"})
        return folder

    def _plain_sft(self) -> Any:
        """Train the chats with TRL alone, from the fresh adapter on."""
        import trl
        from datasets import Dataset
        from transformers import AutoTokenizer
        from trl import SFTConfig, SFTTrainer

        tokenizer = AutoTokenizer.from_pretrained(self.bench.base)
        tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / "gemma3_training.jinja").read_text()
        arguments = peers.plain_arguments(self._work / "SFT", SFT)
        for name in ("beta", "disable_dropout"):
            del arguments[name]
        trainer = SFTTrainer(
            model=peers.plain_model(self.bench, self._theirs),
            args=SFTConfig(**arguments, max_length=None, assistant_only_loss=True),
            train_dataset=Dataset.from_list(rows.train_rows(24)),
            processing_class=tokenizer,
        )
        trainer.train()
        return trainer

    def _tokens(self) -> list[int]:
        """Return the tokens of some chats, one after the other."""
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(self.bench.base)
        chats = [row["messages"] for row in rows.held_out_rows(4)]
        return [token for chat in chats for token in tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]]

    def _logits(self, export_format: Format, folder: Path, tokens: list[int]) -> torch.Tensor:
        from transformers import AutoModelForCausalLM

        if export_format == "gguf":
            (path,) = folder.glob("model-*.gguf")
            model = LlamaModel(self.bench.services.settings.llama_cpp, path)
            blocks = [torch.from_numpy(each.copy()) for each in model.logits(tokens, range(len(tokens)))]
            return torch.cat(blocks)
        stored = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        with torch.no_grad():
            logits: torch.Tensor = stored.eval()(torch.tensor([tokens])).logits[0]
        return logits


def main() -> bool:
    """Print both tables; return whether every limit is kept."""
    is_within = True
    with tempfile.TemporaryDirectory(prefix="gemtune-chain-") as folder:
        chains = Chains(Path(folder))
        print(
            "| stage | losses here | losses of TRL | difference | of adapters | moved by |\n|---|---|---|---|---|---|"
        )
        for stage in chains.stages():
            ours, theirs = (" ".join(f"{each:.4f}" for each in losses) for losses in zip(*stage.losses, strict=True))
            print(
                f"| {stage.name} | {ours} | {theirs} | {stage.loss:.2e} | {stage.weight:.2e} | {stage.moved:.2e} |",
                flush=True,
            )
            is_within &= stage.agrees
        print("\n| export | KL from PEFT's merge | same token |\n|---|---|---|")
        for (name, divergence, agreement), limit in zip(chains.divergences(), EXPORTS.values(), strict=True):
            print(f"| {name} | {divergence:.2e} | {agreement:.3f} |", flush=True)
            is_within &= 0 <= divergence <= limit and agreement >= AGREEMENT
    return is_within


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
