"""Results of a job: certificate, files, warnings, and what became of the rows."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gemtune.jobs.parts.base import Record
from gemtune.jobs.parts.metrics import Metrics
from gemtune.jobs.parts.plan import Plan, Workload


class Parity(Record):
    """Certificate of an export: how it compares with the trained model.

    The export was loaded again in its own runtime for the comparison.
    """

    source: str = Field(description='where the compared rows come from, e.g. "held-out rows"')
    rows: int = Field(description="rows that were compared")
    media_rows: int = Field(0, description="rows among them with pictures or audio")
    positions: int = Field(description="compared positions, each of which predicts a token of an answer")
    prompts: int = Field(description="conversations whose tokens were compared")
    prompts_identical: int = Field(
        description="conversations that the export's runtime turns into the same tokens as training did"
    )
    mean_kl: float = Field(
        description="mean KL divergence of the export's predictions from the trained model's, in nats per position"
    )
    top1_agreement: float = Field(description="share of positions at which both models predict the same token first")
    perplexity: float = Field(description="perplexity of the export over these positions")
    perplexity_trained: float = Field(description="perplexity of the trained model over the same positions")
    change_kept: float | None = Field(
        None,
        description="share of the change in log-probabilities by training that the export shows, as a regression "
        "coefficient: 1 for all of it, 0 if the adapter is lost; null if all weights were trained",
    )
    verdict: Literal["passed", "loss_accepted"] | str = Field(
        "passed",
        description="`passed`, or `loss_accepted` if it loses more than its format may and the request had "
        "`accept_loss`",
    )
    losses: tuple[str, ...] = Field((), description="limits that it exceeds, in sentences; empty if it passed")
    noise_floor: float | None = Field(
        None,
        description="mean KL divergence that the same rounding causes in the base model on the same rows; null if it "
        "was not needed or not measured",
    )
    gain_kept: float | None = Field(
        None,
        description="share of what training gained in held-out loss that the export keeps; null if there was no gain "
        "to speak of, or no held-out rows",
    )
    learned_agreement: float | None = Field(
        None,
        description="share of the positions where training changed the first choice at which the export has the "
        "trained model's, or one almost as likely; null without such positions",
    )
    answers_right: int | None = Field(
        None, description="compared rows whose whole answer the export gives, token by token; null without such rows"
    )
    answers_right_trained: int | None = Field(None, description="the same of the trained model")
    kl_from_base: float | None = Field(
        None, description="mean KL divergence of the export from the base model; null if all weights were trained"
    )
    kl_from_base_trained: float | None = Field(None, description="the same of the trained model")
    probes: int = Field(0, description="fixed conversations that were compared, besides the rows")
    probe_kl: float | None = Field(None, description="mean KL divergence on these conversations")
    reference: str = Field("", description="when the trained model's predictions were recorded")
    differences: tuple[str, ...] = Field(
        (), description="ways in which the files knowingly differ from the training, in sentences"
    )
    seconds: float | None = Field(
        None,
        description="seconds that it took: the comparison, the noise floor if it was needed, and, for GGUF, the "
        "comparison in 16 bits",
    )
    memory_bytes: int | None = Field(None, description="main memory that the comparison took at its peak")


class Artifact(Record):
    """Immutable file of a job's result."""

    name: str = Field(description="path of the file inside the result")
    uri: str = Field(description="where the file is stored")
    bytes: int = Field(description="size of the file")
    sha256: str = Field(description="SHA-256 of the file's content, in hexadecimal")


# Code of the warning about a cap that even the least of a plan exceeds.
CAP_BELOW_PLAN = "cap_below_plan"


class JobWarning(Record):
    """Something that a step did differently from what its user may expect."""

    code: str = Field(description="stable code of the warning")
    message: str = Field(description="what happened, in one sentence")
    hint: str | None = Field(None, description="what to do about it")


class UnreadField(Record):
    """A field of rows that cannot change what is learned, and is not read."""

    name: str = Field(description="name of the field, with the fields around it")
    rows: int = Field(description="rows that have it")


class RowsSummary(Record):
    """Counts of a dataset's rows by what became of them, and its files.

    `report.json` has the same in full.
    """

    train: int = Field(0, description="rows that are trained on in every epoch")
    held_out: int = Field(0, description="rows that are evaluated and never trained on")
    tokens: int = Field(0, description="tokens of the rows that are trained on, per epoch")
    trained_tokens: int = Field(
        0, description="tokens with a loss among them; 0 for GRPO, which trains on completions of the model"
    )
    refused: int = Field(0, description="rows that were left out because they cannot be used")
    dropped: int = Field(0, description="rows that were left out because they have more tokens than max_seq_length")
    cut: int = Field(0, description="rows that were cut at max_seq_length")
    duplicates: int = Field(0, description="rows of the train split that repeat an earlier one")
    held_out_duplicates: int = Field(0, description="held-out rows that are trained on, too")
    fields_not_read: tuple[UnreadField, ...] = Field(
        (), description="fields that cannot change what is learned and were not read, at most 100"
    )
    files: tuple[str, ...] = Field((), description="files that were read, at most 100")
    files_not_read: tuple[str, ...] = Field((), description="other files of the dataset, at most 100")
    dataset_revision: str | None = Field(None, description="commit of a dataset of the Hub; null for other datasets")
    report: str | None = Field(None, description="URI of report.json; rows_left_out.jsonl beside it names every row")


class StepResult(BaseModel):
    """Fields of a job's record that a finished step delivers.

    Fields that are None stay as they were.
    prepare: machine, export_machine, workload, plan, warnings, rows. train: metrics, artifacts. export: adapter_path,
    artifacts, certificate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str | None = None
    export_machine: str | None = None
    workload: Workload | None = None
    plan: Plan | None = None
    warnings: tuple[JobWarning, ...] | None = None
    rows: RowsSummary | None = None
    metrics: Metrics | None = None
    adapter_path: str | None = None
    artifacts: tuple[Artifact, ...] | None = None
    certificate: Parity | None = None

    def by_field(self) -> dict[str, object]:
        """Return the delivered values by the names of the job's fields."""
        delivered = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in delivered.items() if value is not None}


NO_RESULT = StepResult()
