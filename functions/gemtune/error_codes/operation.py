"""Codes that operators meet: at the start, on the command line and in logs."""

from __future__ import annotations

from collections.abc import Mapping

from gemtune.error_codes.entry import ErrorCode

COMMAND_LINE: Mapping[str, ErrorCode] = {
    "bad_use": ErrorCode(
        "A command, an argument or an option is not used as it can be. Without `--json` only the message is printed; "
        "the exit code is 2.",
        "Correct what the message names; `--help` behind the command describes it.",
    ),
    "command_failed": ErrorCode(
        "A command could not do its work, for a reason without a code of its own. Without `--json` only the message is "
        "printed.",
        "Do what the message says.",
    ),
    "unreachable": ErrorCode(
        "The service does not answer. Without `--json` only the message is printed; the exit code is 5.",
        "Start one with `gemtune up`, or name another one with `--url`.",
    ),
    "not_an_answer": ErrorCode(
        "Something else than a gemtune service of this version answers at the address.",
        "Correct the address, or start or deploy the service again if it is older.",
    ),
    "file_exists": ErrorCode(
        "A download would replace a file that has another content.",
        "Use `--force` to replace it, or `--output` to write somewhere else.",
    ),
    "bad_setting": ErrorCode(
        "An environment variable is missing or has a value that it cannot have.",
        "Set what the message names; see [settings](settings.md).",
    ),
    "cannot_serve": ErrorCode(
        "Another server owns this `GEMTUNE_HOME`, or the port is taken.",
        "Use that server, or set `GEMTUNE_HOME` or `PORT` to another one.",
    ),
    "cannot_stop": ErrorCode(
        "`gemtune down` cannot see which process has this `GEMTUNE_HOME`: another user's, or one in a container.",
        "Stop it as that user, in that container.",
    ),
    "cannot_open": ErrorCode(
        "The database of this `GEMTUNE_HOME` was written by a newer version.",
        "Run that version, or use another `GEMTUNE_HOME`.",
    ),
    "check_crashed": ErrorCode(
        "The process of a check of a dataset ended without a report, as when memory runs out.",
        "Close other programs and check again; otherwise report it with its output.",
    ),
    "check_folder_in_use": ErrorCode(
        "Another `gemtune data check` is writing its results to the same folder.",
        "Wait until it has ended, or choose another folder with `--output`.",
    ),
    "unusable_file": ErrorCode(
        "A file or folder cannot be created, read or written.",
        "Make room or change its permissions; the message has the path.",
    ),
    "unsafe_name": ErrorCode(
        "A secret's or a file's name has characters that it must not have.",
        "Use letters, digits, `_` and `-`.",
    ),
}

INTERNAL: Mapping[str, ErrorCode] = {
    "stale": ErrorCode("A writer no longer owns what it writes to.", "None needed: it stops and writes nothing more."),
    "stale_claim": ErrorCode(
        "Another execution owns the job, or the job is over.",
        "None needed: the execution ends, and the one that owns the job goes on.",
    ),
    "stale_attempt": ErrorCode(
        "A newer attempt of the same step has begun.",
        "None needed: the old attempt ends.",
    ),
    "version_conflict": ErrorCode(
        "The record changed after it was read.",
        "None needed: it is read again and decided again.",
    ),
    "illegal_move": ErrorCode(
        "A status was to change in a way that [the table of moves](state-machine.md#moves) does not have.",
        "Report it: this is a bug in the service.",
    ),
    "record_invalid": ErrorCode(
        "A record was about to be stored that could not be read again; nothing was written.",
        "Report it: this is a bug in the service.",
    ),
    "conflict": ErrorCode("The base of all conflicts; only its subclasses are raised.", "None needed."),
    "step_failed": ErrorCode("The base of what fails a step; each failure has a code of its own.", "None needed."),
    "unreadable": ErrorCode("The base of what cannot be read; each fault has a code of its own.", "None needed."),
    "object_exists": ErrorCode(
        "A create-only write found something there, usually because the same request came twice.",
        "None needed: what is there is used.",
    ),
    "not_whole": ErrorCode(
        "A folder of results has no manifest, or other files than it lists.",
        "None for a checkpoint: an older one is used. Otherwise the step is retried; if it fails, submit it again.",
    ),
    "hub_away": ErrorCode(
        "The Hub is busy, broken or out of reach.",
        "None needed: the upload is tried again, and then the export step.",
    ),
    "address_not_allowed": ErrorCode(
        "A webhook's host resolves to an address inside a network.",
        "Use a host that the internet knows; the message becomes a dead letter.",
    ),
    "webhook_refused": ErrorCode(
        "A webhook's receiver answered with a status other than 2xx.",
        "Answer 2xx; it is sent again for hours and then becomes a dead letter.",
    ),
    "forbidden": ErrorCode(
        "The workstation's event port was called without its token.",
        "Use the API's port: only gemtune itself delivers events.",
    ),
    "bad_call": ErrorCode(
        "The workflow's call of the control function is invalid (status 400).",
        "Deploy workflow and functions of the same version.",
    ),
    "try_again": ErrorCode(
        "The control function cannot answer now (status 503).",
        "None needed: the workflow repeats its call for some 15 minutes.",
    ),
}
