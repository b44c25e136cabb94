"""Report of a check: what a training would make of every row of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, Field

from gemtune.jobs.parts.plan import Workload
from gemtune.jobs.parts.results import JobWarning, RowsSummary


class CheckError(BaseModel):
    """Reason why a dataset cannot be trained on."""

    code: str = Field(description="stable code of the error, for programs")
    message: str = Field(description="what is wrong, in one sentence")
    hint: str | None = Field(None, description="what to do about it")


class RowLeftOut(BaseModel):
    """A row that is not used."""

    file: str = Field(description="file of the row")
    row: int = Field(description="number of the row in its file, from 1; in a file of JSON lines, of its line")
    reason: str = Field(description="why it is not used, and what to do about it")


class ColumnCheck(BaseModel):
    """A field of the rows, and what it is read as."""

    name: str = Field(description="name of the field in the rows")
    rows: int = Field(description="rows that have it")
    read_as: str | None = Field(description="field of the format that it is read as; null if it is not read")


class Lengths(BaseModel):
    """Tokens per row."""

    least: int = Field(description="tokens of the shortest row")
    median: int = Field(description="lower median of the tokens of a row")
    most: int = Field(description="tokens of the longest row")
    rows_up_to: Mapping[int, int] = Field(
        description="for each power of two: the rows with so many tokens at most, and more than the previous power"
    )


class SplitCheck(BaseModel):
    """Rows of one split by what becomes of them."""

    files: Sequence[str] = Field(description="files that were read, in order")
    used: int = Field(description="rows that are used")
    refused: int = Field(description="rows that cannot be used")
    dropped: int = Field(description="rows that are left out because they are too long")
    truncated: int = Field(description="rows that are cut at max_seq_length")
    cut_ends: int = Field(description="rows that are cut before an answer ends")
    tokens: int = Field(description="tokens of the rows that are used")
    trained_tokens: int = Field(description="tokens with a loss among them")
    formats: Mapping[str, int] = Field(description="number of rows by the format that they were read in")
    columns: Sequence[ColumnCheck] = Field(description="fields of the rows, the first 1000")
    lengths: Lengths | None = Field(description="tokens per row of the rows that are used; null if there are none")
    refused_rows: Sequence[RowLeftOut] = Field(description="the first 100 rows that cannot be used")
    dropped_rows: Sequence[RowLeftOut] = Field(description="the first 100 rows that are too long")


class NearDuplicate(BaseModel):
    """A held-out row that is nearly the same as a row to train on."""

    held_out: str = Field(description="where the held-out row is")
    train: str = Field(description="where the most similar row of the train split is")
    similarity: float = Field(description="estimated Jaccard similarity of the two rows' trigrams of tokens")


class NearDuplicates(BaseModel):
    """Held-out rows that are nearly the same as rows to train on."""

    rows: int = Field(description="held-out rows with such a row; equal ones count as well")
    examples: Sequence[NearDuplicate] = Field(description="the 10 most similar ones that are not equal")
    method: str = Field(description="how rows are compared")


class SamplePiece(BaseModel):
    """Part of a row's text, all of whose tokens are trained, or none."""

    trained: bool = Field(description="whether its tokens have a loss")
    text: str = Field(description="text of the tokens, special tokens included")
    part: str | None = Field(None, description="column that it comes from, for rows of reinforcement learning")


class CheckReport(BaseModel):
    """Report of what a training would make of a dataset."""

    trains: bool = Field(description="whether a job with this dataset and configuration gets as far as its training")
    error: CheckError | None = Field(description="why it does not; null if it does")
    warnings: Sequence[JobWarning] = Field((), description="what the training does otherwise than one may expect")
    base_model_id: str = Field(description="model whose tokenizer and chat template were used")
    method: str = Field(description="training method")
    max_seq_length: int | None = Field(None, description="tokens that a row may have")
    chat_template: str | None = Field(None, description="file of the chat template, or the name of gemtune's own")
    rows: RowsSummary | None = Field(None, description="counts of rows; null if the dataset could not be read")
    train: SplitCheck | None = Field(None, description="the train split; null if the dataset could not be read")
    held_out: SplitCheck | None = Field(None, description="the held-out split; null if the dataset has none")
    near_duplicates: NearDuplicates | None = Field(
        None, description="held-out rows that are nearly trained on; null without held-out rows"
    )
    workload: Workload | None = Field(None, description="train_steps and tokens of the training; null if it fails")
    packs: int | None = Field(None, description="sequences per epoch, with `packing`; null without it")
    samples: Sequence[Sequence[SamplePiece]] = Field(
        (), description="the first rows of the train split, each in pieces of trained and untrained tokens"
    )
    rows_left_out: str | None = Field(None, description="file that names every row that is not used, with its reason")
