"""Codes of error answers of the HTTP API."""

from __future__ import annotations

from collections.abc import Mapping

from gemtune.error_codes.entry import ErrorCode

ANSWERS: Mapping[str, ErrorCode] = {
    "request_refused": ErrorCode(
        "Something in the request or its parameters is wrong; `problems` lists all of it at once.",
        "Correct every listed problem and send the request again.",
    ),
    "bad_idempotency_key": ErrorCode(
        "The idempotency key is empty, longer than 1024 bytes, not printable, or looks like a token.",
        "Use printable ASCII characters, such as a UUID.",
    ),
    "bad_page_token": ErrorCode(
        "`page_token` was not given out by this service.",
        "Start again without `page_token`, and pass on `next_page_token` unchanged.",
    ),
    "job_not_found": ErrorCode(
        "There is no job with this id: it never existed, or it was deleted.",
        "List the jobs with `GET /jobs`.",
    ),
    "no_such_dataset": ErrorCode(
        "There is no dataset with this id: it was never uploaded, or it was deleted.",
        "List the datasets with `GET /datasets`.",
    ),
    "dataset_unreadable": ErrorCode(
        "The record of the dataset is damaged, or another version wrote it.",
        "Run that version; or delete the dataset, and upload it again.",
    ),
    "dataset_incomplete": ErrorCode(
        "An upload was to be completed before all of its parts were there.",
        "Send the parts that `missing_parts` of the dataset names, and complete it again.",
    ),
    "checksum_mismatch": ErrorCode(
        "The uploaded parts of a file do not have the hash that was announced; they are dropped.",
        "Send them again. If the file changed meanwhile, begin the upload again.",
    ),
    "bad_part": ErrorCode(
        "A part of an upload has another number or another size than the file has parts.",
        "Cut files into parts of `part_bytes`, counted from 0; only the last part of a file is smaller.",
    ),
    "dataset_in_use": ErrorCode(
        "The dataset cannot be deleted while jobs that use it are not over.",
        "Wait for their end, or cancel them with `POST /jobs/{job_id}/cancel`.",
    ),
    "not_found": ErrorCode(
        "The path is not one of the API's, or nothing has that name.",
        "Compare the path with `GET /openapi.json`.",
    ),
    "object_not_found": ErrorCode(
        "A file of the job is not in the object store.",
        "Check whether it was removed by hand; export again with `POST /jobs/{job_id}/exports`.",
    ),
    "secret_not_found": ErrorCode(
        "A token that the request or the job refers to is not stored, or it expired.",
        "Store it again with `gemtune secret NAME`, then submit again.",
    ),
    "unsafe_name": ErrorCode(
        "A name has parts such as `..`, or a link leads out of its bucket.",
        "Use plain relative names, and put the files themselves where the link is.",
    ),
    "no_such_check": ErrorCode(
        "The dataset has no check of that id; checks are deleted after seven days, and with their dataset.",
        "Begin one with `POST /datasets/{dataset_id}/check`.",
    ),
    "rows_not_readable": ErrorCode(
        "The rows are in a file that cannot be read from the middle (Parquet, a JSON array, compressed, not UTF-8), or "
        "the check has not read them.",
        "Begin a check with `POST /datasets/{dataset_id}/check`, and name it with `check_id`.",
    ),
    "too_many_checks": ErrorCode(
        "A workstation runs four checks of datasets at a time.",
        "Wait until one of them is done.",
    ),
    "idempotency_key_reused": ErrorCode(
        "The idempotency key was sent before, with a different request.",
        "Send a changed request under a new `Idempotency-Key`.",
    ),
    "job_was_deleted": ErrorCode(
        "The idempotency key belongs to a job that was deleted.",
        "Send the request under a new `Idempotency-Key` to train again.",
    ),
    "job_is_over": ErrorCode(
        "The job is completed, failed or cancelled, which never changes.",
        "Submit a new job, or export its result with `POST /jobs/{job_id}/exports`.",
    ),
    "plan_not_made": ErrorCode(
        "The plan of a job is made when its step `prepare` is done; a job that only exports again has none.",
        "Wait for the event `prepare_done`, or plan the request with `POST /train?dry_run=true`.",
    ),
    "cannot_pause": ErrorCode(
        "The job exports its result, a step that is short and has no checkpoints.",
        "Wait for its end, or cancel it with `POST /jobs/{job_id}/cancel`.",
    ),
    "job_not_paused": ErrorCode(
        "The job is not paused, so it cannot be resumed; or it is about to pause, and its caps cannot change before.",
        "See its status with `GET /jobs/{job_id}/status`.",
    ),
    "cap_reached": ErrorCode(
        "The job has cost or run as much as its `max_cost_usd` or `max_hours` allow, so it cannot be resumed.",
        "Send a higher one with `POST /jobs/{job_id}/resume`; `spent` of its status says what it has taken.",
    ),
    "job_is_running": ErrorCode(
        "A job that is not over cannot be deleted, nor exported again.",
        "Wait for its end, or cancel it with `POST /jobs/{job_id}/cancel`.",
    ),
    "job_has_children": ErrorCode(
        "The job cannot be deleted while other jobs export what it trained, or after others trained on from it.",
        "Wait for the end of exports, or cancel them; delete jobs that trained on from it first.",
    ),
    "nothing_trained": ErrorCode(
        "The job ended before its train step did, so there is nothing to export.",
        "Export a job whose train step is done, or train again.",
    ),
    "record_unreadable": ErrorCode(
        "The job's record was written by another version of the service, or is damaged.",
        "Run the version that wrote it; or cancel the job and delete it.",
    ),
    "spec_unreadable": ErrorCode(
        "The job's configuration has fields or values that this version does not know.",
        "Run the version that accepted the job, or submit it again.",
    ),
    "not_from_here": ErrorCode(
        "The workstation's service was called by a web page, or under a host name that is not this machine's.",
        "Call `http://127.0.0.1` from a program of the same machine.",
    ),
    "body_too_large": ErrorCode(
        "The body has more than 1 MiB.",
        "Put rows into a dataset, not into the request.",
    ),
    "no_logs": ErrorCode(
        "The account that the service runs as may not read the logs of its project.",
        "Grant it the permission that the hint names, or read them with the command there.",
    ),
    "logs_busy": ErrorCode(
        "Cloud Logging returned nothing, also when asked again: a project may read 60 times per minute.",
        "Try again in a minute; `gemtune logs --follow` does so by itself.",
    ),
    "no_signed_links": ErrorCode(
        "The account that the service runs as cannot sign links to objects; or a workstation was asked for links to "
        "send parts.",
        "Run the service as a service account that has `roles/iam.serviceAccountTokenCreator` on itself; send parts "
        "with `PUT /datasets/{dataset_id}/parts`.",
    ),
    "cannot_store": ErrorCode(
        "A write failed: the disk is full or read-only.",
        "Make room in `GEMTUNE_HOME`, or make it writable, and send the request again.",
    ),
    "internal": ErrorCode(
        "An internal error; the response does not say more.",
        "Try again; then see the service's log, which has the details.",
    ),
}

HTTP_NAMES: Mapping[str, ErrorCode] = {
    "method_not_allowed": ErrorCode(
        "The path exists, but not with this method.",
        "Use a method that the header `Allow` names.",
    ),
    "bad_request": ErrorCode(
        "What arrived is not HTTP, or its headers contradict each other.",
        "Use an HTTP client library.",
    ),
    "request_header_fields_too_large": ErrorCode(
        "The headers are longer than the server reads (256 KiB).",
        "Send less in headers and in the query.",
    ),
    "not_implemented": ErrorCode(
        "The request has a `Transfer-Encoding` that the server does not know.",
        "Send the body plain or chunked.",
    ),
    "internal_server_error": ErrorCode(
        "The workstation's server failed before it reached the API.",
        "Try again; then look into the server's log.",
    ),
}
