"""Codes that jobs fail with."""

from __future__ import annotations

from collections.abc import Mapping

from gemtune.error_codes.entry import ErrorCode

EXPORT_AGAIN = "the training result is kept: then `POST /jobs/{job_id}/exports`"

FAILURES: Mapping[str, ErrorCode] = {
    "dataset_not_found": ErrorCode(
        "The dataset's files are gone, or it has no train split.",
        "Put `train.jsonl`, or [another kind of file](../datasets.md#files), there and submit again.",
    ),
    "bad_dataset": ErrorCode(
        "A file of the dataset cannot be read, is missing, or is one of two candidates for the same split.",
        "Correct the file that the message names and submit again; see [datasets](../datasets.md#files).",
    ),
    "dataset_gated": ErrorCode(
        "The Hub requires that somebody accepted the dataset's terms, or the token may not read it.",
        "Accept the terms on the dataset's page, and send an `hf_token` of that account.",
    ),
    "hub_unreachable": ErrorCode(
        "The Hub of Hugging Face cannot be reached: no network, no name server, a wrong proxy, or `HF_HUB_OFFLINE`.",
        "Check the network of the machine that prepares, or name a base model that is at hand (`GET /models`).",
    ),
    "empty_dataset": ErrorCode("A split has no rows.", "Put rows into it and submit again."),
    "bad_rows": ErrorCode(
        "More than a tenth of a split's rows cannot be used; the message says where all are listed, with reasons.",
        "Correct these rows and submit again.",
    ),
    "no_such_column": ErrorCode(
        "`dataset_columns` says that a field is in a column that no row has; the message names the columns.",
        "Name a column that the rows have; the field comes first, as in `{prompt: question}`.",
    ),
    "rows_too_long": ErrorCode(
        "Every row has more tokens than `max_seq_length`, or one has and `too_long` is `refuse`.",
        "Raise `max_seq_length` to what the hint names, or shorten the rows.",
    ),
    "ends_cut_off": ErrorCode(
        "Every row is longer than `max_seq_length`, so the model would not learn to end an answer.",
        "Raise `max_seq_length`, or shorten the rows.",
    ),
    "too_few_rows": ErrorCode(
        "There are fewer rows than one train_step of GRPO needs, or one row only and evaluation is on.",
        "Add rows, or follow the hint.",
    ),
    "one_label": ErrorCode(
        "All rows of KTO have the same `label`, and there is nothing to compare.",
        "Train good answers alone with method LoRA, or add rows with the other label.",
    ),
    "warmup_without_end": ErrorCode(
        "With this many rows the learning rate would rise until the last train_step.",
        "Lower `warmup_ratio`, or train longer.",
    ),
    "completion_too_long": ErrorCode(
        "The base model's context leaves no tokens for a prompt.",
        "Lower `max_completion_length`.",
    ),
    "needs_larger_machine": ErrorCode(
        "With the weights and rows known, the job fits on no machine that may run it.",
        "Follow the hint; see [sizing](sizing.md).",
    ),
    "price_unknown": ErrorCode(
        "The job has a cap in dollars, or its owner a budget, and the machine that prepare chose has no known price.",
        "Submit again with a machine whose price is known, or state the price: "
        "`GEMTUNE_USD_PER_HOUR`, on Google Cloud [`usd_per_hour`](../deployment.md#what-it-costs) of the machine.",
    ),
    "bad_base_model": ErrorCode(
        "A file of the base model is missing, damaged, or contradicts another one.",
        "Save or upload the whole model again.",
    ),
    "base_changed": ErrorCode(
        "A file of the base model is not the one that the job was prepared with; the message names it.",
        "Put the file of that time back and export again, or submit the job again to train on the file of now.",
    ),
    "base_model_not_found": ErrorCode(
        "There is nothing at `base_model_id`: no such repository or folder, or a bucket that is not the service's.",
        "Check the name; copy the model into one of the service's buckets.",
    ),
    "base_model_gated": ErrorCode(
        "The Hub requires that somebody accepted the model's terms, or the token may not read it.",
        "Accept the terms on the model's page, and send an `hf_token` of that account.",
    ),
    "no_such_layer": ErrorCode(
        "`target_modules` names layers that the language model of this base model does not have.",
        "Use the names that the hint lists; `train_vision_tower` is for vision towers.",
    ),
    "dora_on_experts": ErrorCode(
        "PEFT has no DoRA for the experts of a mixture.",
        "Name the layers without experts as `target_modules`, or leave `use_dora` out.",
    ),
    "embeddings_per_layer": ErrorCode(
        "Every layer of the base model (Gemma 3n, Gemma 4 E2B and E4B) has an embedding of its own, to which no "
        "`new_tokens` can be added.",
        "Use another base model, or leave `new_tokens` out: the text is tokenized as it is.",
    ),
    "token_exists": ErrorCode(
        "The tokenizer has a string of `new_tokens` already, or one contains a control token of the base model.",
        "Leave it out if it is a token; else choose another text for it.",
    ),
    "base_job_gone": ErrorCode(
        "Files of the job in `base_job_id` were removed by hand.", "Train from a base model, or train that job again."
    ),
    "base_model_quantized": ErrorCode(
        "The base model's weights are quantized, which cannot be merged with an adapter.",
        "Train on the model that it was made from.",
    ),
    "not_a_gemma": ErrorCode("The base model is of another architecture.", "Use a [Gemma model](models.md)."),
    "model_not_supported": ErrorCode(
        "The base model cannot be trained here, or the libraries cannot build it.",
        "Use one of the [models](models.md) that can; the step's log has the whole error.",
    ),
    "vision_tower_frozen": ErrorCode(
        "No job can train the vision tower of this family.",
        "Set `train_vision_tower` to false: the language model is trained on pictures all the same.",
    ),
    "model_without_vision": ErrorCode(
        "A vision job's base model has no vision tower that can be used.",
        "Use gemma-3-4b-it or larger, a Gemma 3n or 4, or modality text.",
    ),
    "model_without_audio": ErrorCode(
        "An audio job's base model cannot be trained on audio.",
        "Use Gemma 3n, Gemma 4 E2B, E4B or 12B, or modality text.",
    ),
    "processor_not_supported": ErrorCode(
        "The base model's image processor cuts pictures into parts (pan and scan), or resizes them in an unknown way; "
        "or its audio processor cuts audio in an unknown way.",
        "Set `do_pan_and_scan` to false in its preprocessor_config.json, or use the processor of the original model.",
    ),
    "template_missing": ErrorCode(
        "The base model has no chat template, and gemtune's own does not fit its tokenizer.",
        "Add the chat_template.jinja that belongs to the tokenizer.",
    ),
    "template_failed": ErrorCode(
        "The base model's chat template raised an error.",
        "Use a base model with Gemma's template.",
    ),
    "template_not_supported": ErrorCode(
        "The chat template renders conversations so that answers cannot be told from prompts, or leaves out pictures "
        "or audio.",
        "Use a base model with Gemma's template.",
    ),
    "timm_missing": ErrorCode(
        "The trainer's environment lacks timm and torchvision, with which transformers builds Gemma 3n's vision tower.",
        "Install them with `make timm`, or use another model.",
    ),
    "unsloth_missing": ErrorCode(
        "The trainer's environment lacks unsloth.",
        "Run `make unsloth` and set what it prints, or use provider huggingface.",
    ),
    "unsloth_unusable": ErrorCode(
        "unsloth cannot be imported on this machine.",
        "Repair its environment with `make unsloth`, run it on a GPU, or use provider huggingface.",
    ),
    "unsloth_needs_gpu": ErrorCode(
        "unsloth trains QLoRA and pictures on a GPU only.",
        "Run it where torch finds a GPU, or use provider huggingface.",
    ),
    "out_of_memory": ErrorCode(
        "The memory of the machine or of its GPU was not enough.",
        "Lower `batch_size` or `max_seq_length`, or use a smaller base model.",
    ),
    "loss_not_finite": ErrorCode(
        "The loss became NaN or infinite.",
        "Lower `learning_rate`, or raise `warmup_ratio`.",
    ),
    "bad_adapter": ErrorCode(
        "The adapter does not fit the base model, or has parts that cannot be merged.",
        f"Export as adapter, or with the base model that was trained; {EXPORT_AGAIN}.",
    ),
    "not_in_fp16": ErrorCode(
        "A weight is larger than fp16 can hold (65,504).",
        f"Export with quantization none, which is bf16; {EXPORT_AGAIN}.",
    ),
    "template_not_for_gguf": ErrorCode(
        "The chat template cannot be written as a Modelfile's template.",
        f"Export as merged, or use Gemma's template; {EXPORT_AGAIN}.",
    ),
    "family_without_gguf": ErrorCode(
        "llama.cpp does not run this model as it was trained.",
        f"Export as merged or adapter; {EXPORT_AGAIN}.",
    ),
    "gguf_tools_missing": ErrorCode(
        "llama.cpp's tools are not where they are expected.",
        f"Run `make llama`; {EXPORT_AGAIN}.",
    ),
    "gguf_failed": ErrorCode(
        "llama.cpp's converter or quantizer failed; the message has its last lines.",
        f"Export as merged; {EXPORT_AGAIN}.",
    ),
    "export_differs": ErrorCode(
        "The exported files are not those of the trained model: a tensor, a setting or a prompt is another one.",
        f"Nothing was published; {EXPORT_AGAIN}. If it happens again, it is a fault of gemtune: report it.",
    ),
    "export_loses_too_much": ErrorCode(
        "Rounding to the format's precision loses more of the training than [its limits](exports.md) allow.",
        f"Export in the larger format that the hint names, or with `accept_loss`; {EXPORT_AGAIN}.",
    ),
    "secret_not_found": ErrorCode(
        "The job's token is no longer stored.",
        "Store it again and submit again.",
    ),
    "hub_token_missing": ErrorCode("The job has no `hf_token`.", f"Send one that may write; {EXPORT_AGAIN}."),
    "hub_token_refused": ErrorCode(
        "The Hub does not know the token.",
        f"Make a token with write access; {EXPORT_AGAIN}.",
    ),
    "hub_forbidden": ErrorCode(
        "The token may not write to this repository.",
        f"Use a token with write access, and an owner that it belongs to; {EXPORT_AGAIN}.",
    ),
    "hub_repository_not_found": ErrorCode(
        "There is no such repository on the Hub, and the token may not create it.",
        f"Check owner and name; {EXPORT_AGAIN}.",
    ),
    "hub_needs_payment": ErrorCode(
        "The account's plan does not cover the repository.",
        f"Make room, or change the plan; {EXPORT_AGAIN}.",
    ),
    "hub_too_large": ErrorCode(
        "The Hub refuses an upload of this size.",
        f"Use another quantization, or an adapter; {EXPORT_AGAIN}.",
    ),
    "hub_conflict": ErrorCode(
        "Somebody else keeps changing the repository during the upload.",
        f"Wait until that is over; {EXPORT_AGAIN}.",
    ),
    "hub_storage_refused": ErrorCode(
        "The Hub's file storage refuses the files.",
        f"Wait a while; {EXPORT_AGAIN}.",
    ),
    "hub_refused": ErrorCode(
        "The Hub refuses the upload; the message has its words.",
        f"Do what it says; {EXPORT_AGAIN}.",
    ),
    "spec_missing": ErrorCode("The job's configuration is gone from the config bucket.", "Submit the job again."),
    "spec_unreadable": ErrorCode(
        "Another version of the service accepted the job's configuration.",
        "Run that version, or submit the job again.",
    ),
    "no_progress": ErrorCode(
        "A step ended three times in a row without a newer checkpoint.",
        "See the log of its last execution; if memory ran out, lower `batch_size` or `max_seq_length`.",
    ),
    "step_not_begun": ErrorCode(
        "A step's executions ended three times in a row before the trainer began.",
        "The request is not at fault: fix the trainer's image (see the log), then submit again.",
    ),
    "never_taken_up": ErrorCode(
        "Executions of the workflow ended six times in a row before they claimed the job.",
        "The request is not at fault: fix the service (see the logs of workflow and control), then submit again.",
    ),
    "execution_lost": ErrorCode(
        "The job's execution was lost, and relaunched as often as is allowed.",
        "See the workflow's log, then submit again.",
    ),
}
