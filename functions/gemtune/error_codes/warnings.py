"""Codes of the warnings of a job."""

from __future__ import annotations

from collections.abc import Mapping

from gemtune.error_codes.entry import ErrorCode

WARNINGS: Mapping[str, ErrorCode] = {
    "adapter_limited": ErrorCode(
        "The job exports an adapter that not every program loads whole: those on a mixture of experts, on `k_proj` of "
        "Gemma 4 12B, 26B-A4B and 31B, of Gemma 3n, and with `new_tokens`, `train_embeddings`, `use_dora` or "
        "`train_vision_tower`; the message says which program.",
        "Load it with PEFT, or export it as `merged`, which every program can load.",
    ),
    "rows_refused": ErrorCode(
        "Some rows cannot be used and were left out; the hint says where all of them are listed, with reasons.",
        "Correct them if they matter.",
    ),
    "rows_dropped": ErrorCode(
        "Some rows have more tokens than `max_seq_length` and were left out, as `too_long` says.",
        "Raise `max_seq_length`, or shorten the rows.",
    ),
    "rows_repeated": ErrorCode(
        "Some rows of the train split are equal, token by token: the model is trained on them more often.",
        "Remove them unless they are to count more.",
    ),
    "held_out_rows_trained": ErrorCode(
        "Some held-out rows are in the train split, too, so metrics on them say little.",
        "Remove them from one of the splits.",
    ),
    "row_count_differs": ErrorCode(
        "`metadata.json` states another number of rows for a split than its files have.",
        "Upload the whole files, or correct `num_rows`.",
    ),
    "cap_below_plan": ErrorCode(
        "By its plan the job takes more than its `max_cost_usd` or `max_hours`, so it will be paused before its end.",
        "Raise the cap, now or when the job is paused: `POST /jobs/{job_id}/resume`; or train less.",
    ),
    "memory_below_plan": ErrorCode(
        "On a workstation: by its plan the training needs more memory on a CPU than the machine has. With a GPU, that "
        "of the GPU decides, which the service does not know.",
        "Train less at a time, or a smaller base model; the hint names changes that would fit.",
    ),
    "nothing_to_ignore": ErrorCode(
        "No row has a column that `dataset_columns` says to ignore; the message names the columns.",
        "Name it as the rows do, or leave it out.",
    ),
    "files_not_read": ErrorCode(
        "The dataset has files that belong to no split and are not read; a test split is never read.",
        "Rename them, name them in `metadata.json`, or remove them.",
    ),
    "ends_cut_off": ErrorCode(
        "With `too_long` cut, some rows are cut before an answer ends; the model does not learn from them how to end.",
        "Raise `max_seq_length`, or shorten the rows.",
    ),
    "labels_unbalanced": ErrorCode(
        "KTO's rows have many more good answers than bad ones, or the other way round, and the weights do not balance "
        "them.",
        "Set `desirable_weight` to a value in the range that the hint names.",
    ),
    "rows_not_judged": ErrorCode(
        "Some rows have an answer that is not one number, which the reward `numeric_answer` cannot compare with.",
        "Write the answer as one number, or set the reward's `after` to the text before it.",
    ),
}
