"""Texts that are redacted as tokens, and texts that are not."""

from __future__ import annotations

import logging

import pytest

from gemtune.redaction import RedactingFormatter, contains_token, redact, redact_logs_of

TOKENS = ["hf_fakeFAKE1234", "wandb_v1_fakefakefakefake"]
HARMLESS = ["hf_token", "hf_repo_id", "wandb_config", "wandb_config.api_key", "gemtune-job-x-hf_token-0a1b2c"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("form", ["{}", "x {} y", "token={}", "https://user:{}@example.com"])
def test_a_token_is_redacted_anywhere_in_a_text(token: str, form: str) -> None:
    assert contains_token(form.format(token))
    assert redact(form.format(token)) == form.format("[secret]")


@pytest.mark.parametrize("text", HARMLESS)
def test_names_of_fields_are_not_redacted(text: str) -> None:
    assert not contains_token(text)
    assert redact(text) == text


def test_a_possible_key_is_redacted_but_does_not_count_as_a_token() -> None:
    assert not contains_token(COMMIT)
    assert redact(f"key {COMMIT}") == "key [secret]"
    assert redact("Authorization: Bearer abc.def-ghi_jkl") == "Authorization: Bearer [secret]"


def test_a_log_line_and_its_traceback_contain_no_token() -> None:
    try:
        raise ValueError("hf_fakeFAKE1234")
    except ValueError as error:
        record = logging.LogRecord("x", 20, "x", 1, "with %s", ("hf_fakeFAKE1234",), (ValueError, error, None))
    assert "fakeFAKE" not in RedactingFormatter("%(message)s").format(record)


def test_the_signature_of_a_link_is_not_logged_by_a_library(caplog: pytest.LogCaptureFixture) -> None:
    link = f"https://storage.googleapis.com/b/o?X-Goog-Expires=3600&X-Goog-Signature={'0a' * 256}"
    caplog.set_level(logging.INFO)
    logger = logging.getLogger("tests.of_redaction")
    for _ in range(2):
        redact_logs_of(logger.name)
    logger.info('HTTP Request: %s %s "%s %d"', "PUT", link, "HTTP/1.1", 200)
    expected = "X-Goog-Expires=3600&X-Goog-Signature=[secret]"
    assert caplog.messages == [f'HTTP Request: PUT https://storage.googleapis.com/b/o?{expected} "HTTP/1.1 200"']
    assert redact(f"x-goog-signature={'0A' * 64}&a=b") == "x-goog-signature=[secret]&a=b"
