"""Codes of the problems that a refused request lists."""

from __future__ import annotations

from collections.abc import Mapping

from gemtune.error_codes.entry import ErrorCode

DOCUMENTS: Mapping[str, ErrorCode] = {
    "too_large": ErrorCode(
        "The document is larger than its kind may be (1 MiB of JSON, 64 KiB of YAML).",
        "Make it smaller; rows belong into a dataset.",
    ),
    "not_text": ErrorCode(
        "It is not UTF-8, or has half of a surrogate pair.",
        "Save it as UTF-8; write `\\u` escapes in pairs.",
    ),
    "not_json": ErrorCode(
        "It is not JSON; the message names line and column.",
        "Correct it; a JSON formatter finds the place.",
    ),
    "not_yaml": ErrorCode(
        "It is not YAML 1.2, or has keys that are not text.",
        "Correct the line that the message names.",
    ),
    "not_an_object": ErrorCode("The document is not a JSON object.", "Send `{…}`."),
    "too_deep": ErrorCode("It is nested deeper than 80 levels.", "Compare it with `GET /openapi.json`."),
    "more_problems": ErrorCode(
        "The request has more problems than the 100 that an answer lists.",
        "Correct those that are listed, and send it again.",
    ),
    "repeated_key": ErrorCode("An object has the same key twice.", "Keep one of them."),
    "not_finite": ErrorCode("A number is NaN, or too large for a float.", "Send a finite number."),
    "too_many_digits": ErrorCode("A whole number has more than 300 digits.", "Round it."),
    "yaml_alias": ErrorCode("YAML anchors, aliases and merge keys are not read.", "Write the value out."),
    "yaml_directive": ErrorCode("YAML directives other than `%YAML 1.2` are not read.", "Remove the line."),
    "yaml_tag": ErrorCode("YAML tags are not read.", "Write the value without its tag."),
    "not_a_file": ErrorCode(
        "A pipe, device or folder is where a file belongs.",
        "Put the file itself there.",
    ),
    "not_a_number": ErrorCode(
        "A query parameter is not a whole number within its bounds.",
        "Leave it out for the default.",
    ),
    "unknown_parameter": ErrorCode(
        "The call has no such query parameter; the hint suggests one with a similar name.",
        "Correct the name, see [the HTTP API](http-api.md).",
    ),
    "repeated_parameter": ErrorCode("A parameter or header was sent twice.", "Send it once."),
}

VALUES: Mapping[str, ErrorCode] = {
    "unknown_field": ErrorCode(
        "There is no such field; the hint suggests one with a similar name.",
        "Correct the name, see [requests](requests.md).",
    ),
    "missing_field": ErrorCode(
        "The field is required, always or together with the rest of the request.",
        "Add it; the hint says what it may be.",
    ),
    "not_one_of": ErrorCode("The value is not one of the allowed ones.", "Use one that the message lists."),
    "bad_form": ErrorCode(
        "The text has characters or a form that its field does not allow.",
        "Use letters, digits, `.`, `_` and `-`; a Hub repository is `owner/name`.",
    ),
    "bool_type": ErrorCode("The value is not true or false.", "Send `true` or `false`, without quotes."),
    "int_type": ErrorCode("The value is not a whole number.", "Send a number without quotes and fraction."),
    "float_type": ErrorCode("The value is not a number.", "Send a number, without quotes."),
    "string_type": ErrorCode("The value is not a text.", "Send a text in quotes."),
    "list_type": ErrorCode("The value is not a list.", "Send `[…]`."),
    "dict_type": ErrorCode("The value is not an object.", "Send `{…}`."),
    "model_type": ErrorCode("The value is not an object.", "Send `{…}` with the fields that belong there."),
    "greater_than": ErrorCode("The number is too small.", "Send a larger one than the bound."),
    "greater_than_equal": ErrorCode("The number is too small.", "Send the bound or more."),
    "less_than": ErrorCode("The number is too large.", "Send a smaller one than the bound."),
    "less_than_equal": ErrorCode("The number is too large.", "Send the bound or less."),
    "string_too_short": ErrorCode("The text is too short or empty.", "Send a longer one, or leave the field out."),
    "string_too_long": ErrorCode("The text is too long.", "Shorten it."),
    "too_short": ErrorCode("The list has too few items.", "Send more, or leave the field out."),
    "too_long": ErrorCode("The list has too many items.", "Send fewer."),
}

REQUESTS: Mapping[str, ErrorCode] = {
    "secret_in_the_open": ErrorCode(
        "A token is in a field, message or file that others can read.",
        "Store it with `gemtune secret NAME` and send `secret:gemtune-user-NAME`. Replace a token that leaked.",
    ),
    "bad_secret_reference": ErrorCode(
        "The value begins with `secret:` and names no secret that a user can store.",
        "Send `secret:gemtune-user-NAME`.",
    ),
    "secret_not_found": ErrorCode(
        "The request refers to a secret that does not exist.",
        "Store it first with `gemtune secret NAME`.",
    ),
    "dataset_not_found": ErrorCode(
        "There is no dataset of that name, or it has no train split.",
        "Put `train.jsonl`, or [another kind of file](../datasets.md#files), into the folder that the hint names.",
    ),
    "dataset_not_ready": ErrorCode(
        "The upload of the dataset is not complete, or its record cannot be read.",
        "Upload it again; see [uploads](../datasets.md#uploads).",
    ),
    "bad_dataset": ErrorCode(
        "The names of the dataset's files do not tell its splits, or its folder cannot be looked at.",
        "Do what the hint says; see [datasets](../datasets.md#files).",
    ),
    "not_a_job_file": ErrorCode(
        "A file in the uploads bucket has the content of a request and another name than a job file.",
        "Upload it under a name that ends in `.job.json` or `.job.yaml`.",
    ),
    "other_dataset": ErrorCode(
        "A job file next to a dataset names another dataset.",
        "Leave `processed_dataset_id` out, or upload the file elsewhere.",
    ),
    "bad_job_id": ErrorCode("A message has a `job_id` that no job can have.", "Leave it out in a new request."),
    "job_not_found": ErrorCode("A message names a job that does not exist.", "Send the whole request instead."),
    "idempotency_key_reused": ErrorCode(
        "A message has the idempotency key of another request.",
        "Publish a changed request under a new key.",
    ),
    "bad_idempotency_key": ErrorCode(
        "A message's or a request's idempotency key cannot be one.",
        "Use printable ASCII characters, at most 1024, and no token.",
    ),
    "bad_page_token": ErrorCode("`page_token` is not in the form of one.", "Start again without it."),
    "base_job_not_found": ErrorCode(
        "There is no job with the id in `base_job_id`, or it was deleted.",
        "List the jobs with `GET /jobs`, or train from a base model.",
    ),
    "base_job_not_finished": ErrorCode(
        "The job in `base_job_id` is not over yet.",
        "Wait until it is over, then send the request again.",
    ),
    "base_job_unusable": ErrorCode(
        "The job in `base_job_id` ended before its training did, or this version cannot read it.",
        "Name a job whose train step is done, or train from a base model.",
    ),
    "differs_from_base_job": ErrorCode(
        "What `base_job_id` trained cannot be trained on in this way: the message names the field.",
        "Leave the field out, then it is that job's; or start from a base model.",
    ),
    "not_with_unsloth": ErrorCode(
        "Provider unsloth does not support the field, or was not tried with it.",
        "Use provider `huggingface`, or leave the field out.",
    ),
    "no_such_layer": ErrorCode(
        "`target_modules` names layers that the language model of this base model does not have, or names one twice.",
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
        "`new_tokens` lists a token twice.",
        "List each one once.",
    ),
    "adapter_of_trained_model": ErrorCode(
        "The adapter belongs to a model that another job trained, which is not on the Hub.",
        "Export it as `merged` or `gguf`, or keep it in the export bucket.",
    ),
    "bad_base_model": ErrorCode(
        "`base_model_id` has none of the three forms, or its folder cannot be read or used.",
        "Use a Hub id, `gs://bucket/folder` or an absolute local folder with all of a model's files.",
    ),
    "base_model_not_found": ErrorCode(
        "The folder has no `config.json`.",
        "Upload config.json, *.safetensors and the tokenizer's files.",
    ),
    "not_a_gemma": ErrorCode("The base model is of another architecture.", "Use a [Gemma model](models.md)."),
    "model_not_supported": ErrorCode(
        "The base model is a Gemma that cannot be trained here.",
        "Use one of the [models](models.md) that can.",
    ),
    "model_without_vision": ErrorCode(
        "A vision job names a base model that cannot be trained on pictures.",
        "Use gemma-3-4b-it or larger, a Gemma 3n or 4, or modality text.",
    ),
    "model_without_audio": ErrorCode(
        "An audio job names a base model that cannot be trained on audio.",
        "Use Gemma 3n, Gemma 4 E2B, E4B or 12B, or modality text.",
    ),
    "audio_not_possible": ErrorCode(
        "An audio job asks for a method or a provider that cannot train on audio.",
        "Use method LoRA, QLoRA or Full, and provider huggingface.",
    ),
    "vision_tower_frozen": ErrorCode(
        "No job can train the vision tower of this family.",
        "Set `train_vision_tower` to false: the language model is trained on pictures all the same.",
    ),
    "family_without_gguf": ErrorCode(
        "llama.cpp does not run models of this family as they were trained.",
        "Export as merged or adapter.",
    ),
    "gguf_tools_missing": ErrorCode(
        "This service has no llama.cpp.",
        "Run `make llama` once; on Google Cloud build the image with it. Or export as merged.",
    ),
    "quantization_not_in_format": ErrorCode(
        "The export format does not have this quantization.",
        "Use one of [the format's own](exports.md).",
    ),
    "needs_larger_machine": ErrorCode(
        "Training or export needs more memory than the machines have that may run it.",
        "Follow the hint: lower `batch_size` or `max_seq_length`, use QLoRA, or deploy a larger machine; "
        "see [sizing](sizing.md).",
    ),
    "machine_not_here": ErrorCode(
        "This deployment does not have the machine that is asked for.",
        "Use one that the hint lists, or leave `machine` out.",
    ),
    "above_maximum": ErrorCode(
        "`max_cost_usd` or `max_hours` is higher than this service allows.",
        "Send at most the maximum that the message says; [a setting](settings.md) of the service raises it.",
    ),
    "budget_spent": ErrorCode(
        "The jobs of the caller have taken the budget of this calendar month; `GET /account` shows it.",
        "Wait for the next month, or ask the operator, who sets `GEMTUNE_OWNER_USD_PER_MONTH` and "
        "`GEMTUNE_OWNER_HOURS_PER_MONTH`.",
    ),
    "price_unknown": ErrorCode(
        "A cap in dollars cannot be kept, because the price of a machine is not known.",
        "Use `max_hours`, or a machine whose price is known, or state the price: "
        "`GEMTUNE_USD_PER_HOUR`, on Google Cloud [`usd_per_hour`](../deployment.md#what-it-costs) of the machine.",
    ),
    "timm_missing": ErrorCode(
        "The service lacks timm and torchvision, with which transformers builds the vision tower of Gemma 3n.",
        "Install them with `make timm`, or use another model.",
    ),
    "unsloth_missing": ErrorCode(
        "The service has no environment with unsloth.",
        "Use provider huggingface, or install it with `make unsloth`.",
    ),
    "unsloth_needs_gpu": ErrorCode(
        "unsloth trains QLoRA and pictures on a GPU only, and the service's machine has none.",
        "Use provider huggingface, or method LoRA for text.",
    ),
    "packing_not_possible": ErrorCode(
        "Packing works for text, with provider huggingface, and not with method RL.",
        "Set `packing` to false.",
    ),
    "needs_evaluation": ErrorCode(
        "Early stopping and the best weights need evaluations.",
        "Set `eval_strategy` to steps or epoch.",
    ),
    "format_of_other_method": ErrorCode(
        "dataset_format names a format whose rows are for another method or algorithm.",
        "Use one of those that the hint names, or leave it out.",
    ),
    "field_without_use": ErrorCode(
        "The field would change nothing in this request.",
        "Leave it out, or set what the hint names.",
    ),
    "repeated_value": ErrorCode("Two metrics, rewards or columns of a dataset have the same name.", "Name each once."),
    "warmup_without_end": ErrorCode(
        "The learning rate would rise until the last train_step and never be reached.",
        "Lower `warmup_ratio`, or train longer.",
    ),
    "learning_rate_too_low": ErrorCode(
        "The polynomial schedule ends at 1e-7, which is not below this learning rate.",
        "Raise `learning_rate`, or use another scheduler.",
    ),
    "batch_of_one": ErrorCode(
        "KTO's loss estimates the KL divergence from other rows of a batch, and `batch_size` is 1.",
        "Set `batch_size` to 2 or more, or `loss_type` to `apo_zero_unpaired`.",
    ),
    "groups_not_whole": ErrorCode(
        "The completions of a train_step cannot be divided into groups of `num_generations`.",
        "Make `batch_size` times `gradient_accumulation_steps` a multiple of `num_generations`.",
    ),
    "completion_too_long": ErrorCode(
        "`max_completion_length` leaves no tokens for the prompt.",
        "Raise `max_seq_length`, or lower `max_completion_length`.",
    ),
    "nothing_to_learn": ErrorCode("The weight of every reward is 0.", "Give one reward another weight."),
    "bad_pattern": ErrorCode("A reward's pattern is not in RE2's syntax.", "Correct it; RE2 has no look-around."),
    "bad_schema": ErrorCode(
        "A reward's JSON schema is invalid, too large, or refers to other documents.",
        "Use JSON Schema 2020-12 with its definitions inside.",
    ),
    "empty_range": ErrorCode("`at_least` is more than `at_most`.", "Lower `at_least`."),
    "out_of_reach": ErrorCode(
        "No completion can be as long as the reward asks for.",
        "Lower `at_least`, or raise `max_completion_length`.",
    ),
    "bad_webhook_url": ErrorCode(
        "The webhook's URL is not https, or its host is not on the internet.",
        "Use `https://your-host/path`; on your own machine set `GEMTUNE_WEBHOOKS_TO_LOOPBACK=yes`.",
    ),
}
