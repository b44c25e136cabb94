"""Codes of `gemtune try`."""

from __future__ import annotations

from collections.abc import Mapping

from gemtune.error_codes.entry import ErrorCode

TRYING: Mapping[str, ErrorCode] = {
    "not_trained": ErrorCode(
        "The training of the job is not finished, so there are no trained weights to ask.",
        "Wait for it, or ask a checkpoint with `--checkpoint`.",
    ),
    "no_checkpoint": ErrorCode(
        "The job has no complete checkpoint of this train_step. Those of a finished training are deleted.",
        "Use one that the message names, or leave out `--checkpoint`.",
    ),
    "not_exported": ErrorCode(
        "No completed job exported in the format of `--format` what this job trained.",
        "Export it with `gemtune export`, and ask again.",
    ),
    "nothing_to_download": ErrorCode(
        "The job is on another machine, and has no files yet.", "Wait until it is completed."
    ),
    "download_failed": ErrorCode(
        "A file could not be downloaded whole, or differs from the job's record.",
        "Try again: a download goes on where it ended.",
    ),
    "no_base": ErrorCode(
        "`--base` was given, and the exported files do not include the base model.",
        "Leave out `--format`, or `--base`.",
    ),
    "no_thinking": ErrorCode(
        "`--thinking` was given, and the model's chat template has no option for it.", "Leave it out."
    ),
    "bad_prompt": ErrorCode(
        "The model's chat template cannot show the prompt, or the prompt has tokens that only the template writes.",
        "Change the prompt.",
    ),
    "no_pictures": ErrorCode(
        "A prompt has pictures, and the model was not trained on pictures, or its GGUF file is asked.",
        "Leave out the pictures, or `--format gguf`. A training with modality `vision` gives a model that reads them.",
    ),
    "no_audio": ErrorCode(
        "A prompt has audio, and the model was not trained on audio, or its GGUF file is asked.",
        "Leave out the audio, or `--format gguf`. A training with modality `audio` gives a model that reads it.",
    ),
    "prompt_too_long": ErrorCode(
        "The prompt, with the conversation before it, has more tokens than the model reads.",
        "Shorten it, or begin a new conversation.",
    ),
    "model_not_loaded": ErrorCode(
        "The libraries cannot load or run the files.",
        "Export the job again; for a job that trained with other versions of the libraries, train again.",
    ),
    "answering_failed": ErrorCode(
        "The process with the model ended unexpectedly; the message has its last lines.",
        "Try again; if it fails again, it is a fault of gemtune.",
    ),
}
