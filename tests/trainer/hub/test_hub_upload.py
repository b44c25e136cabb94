"""Uploads to a Hub: complete in one commit, resumable, refused with a remedy."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemtune.errors import StepError
from gemtune.redaction import redact
from tests.trainer import hub_server
from tests.trainer.hub_server import CUT, CUT_AFTER, READ_ONLY_TOKEN, TOKEN, Answer, HubServer
from trainer.context import StopRequested
from trainer.hub import session
from trainer.hub.refusals import TransientError
from trainer.hub.upload import Upload

REPOSITORY, BASE = "me/captain", "google/gemma-3-270m-it"
FIELDS = f"base_model: {BASE}\nlibrary_name: peft\nlicense: gemma\ntags:\n- lora\n"
CARD = f"---\n{FIELDS}---\n\n# Mine\n\nTrained on `chats`.\n"
KINDS = tuple(hub_server.KINDS)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server.serving(HubServer()) as hub:
        hub.add(BASE, card={"license": "gemma", "license_link": "https://ai.google.dev/gemma/terms"})
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as set while models are loaded
        yield hub


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the seconds that the library would sleep, instead of sleeping."""
    seconds: list[float] = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", seconds.append)
    return seconds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write an export.

    One large file is uploaded in three parts, another in one; the rest are small.
    """
    folder = tmp_path / "exported"
    (folder / "more").mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 2000)
    (folder / "tokenizer.model").write_bytes(b"pieces" * 1000)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "more" / "empty.txt").write_bytes(b"")
    (folder / "README.md").write_text(CARD)
    return folder


def upload(folder: Path, **more: Any) -> Upload:
    arguments: dict[str, Any] = {"repository": REPOSITORY, "token": TOKEN, "base_model_id": BASE}
    return Upload(
        folder, **arguments | {"title": "Mine (training_x)", "check_stop": lambda: None, "sleep": lambda _: None} | more
    )


def is_complete(hub: HubServer, folder: Path) -> bool:
    published = hub.repositories[REPOSITORY].files
    expected = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {n: c for n, c in published.items() if n not in (".gitattributes", "README.md")} == {
        n: c for n, c in expected.items() if n != "README.md"
    }


def refusal(hub: HubServer, folder: Path, **more: Any) -> StepError:
    with pytest.raises(StepError) as caught:
        upload(folder, **more)()
    return caught.value


def test_a_new_repository_is_private_and_gets_everything_in_one_commit(hub: HubServer, folder: Path) -> None:
    commit = upload(folder)()
    repository = hub.repositories[REPOSITORY]
    assert (repository.private, repository.sha, len(repository.history)) == (True, commit, 2)
    assert is_complete(hub, folder)
    assert {kind: hub.count(kind) > 0 for kind in KINDS} == dict.fromkeys(KINDS, True)
    assert hub.count("unknown") == 0
    assert hub.count("part") == 3


def test_the_library_downloads_what_was_uploaded(hub: HubServer, folder: Path) -> None:
    """The library parses the card, which has the fields that the Hub needs."""
    from huggingface_hub import ModelCard

    upload(folder)()
    card = ModelCard(hub.repositories[REPOSITORY].files["README.md"].decode())
    assert card.data.to_dict() == {
        "base_model": BASE,
        "library_name": "peft",
        "tags": ["gemtune", "lora"],
        "license": "gemma",
        "license_link": "https://ai.google.dev/gemma/terms",
    }
    assert card.text.strip() == "# Mine\n\nTrained on `chats`."


@pytest.mark.parametrize("card", [None, {}, {"license": "apache-2.0"}, {"license": "other", "license_name": "mine"}])
def test_the_licence_is_that_of_the_base_models_card(hub: HubServer, folder: Path, card: Any) -> None:
    hub.repositories[BASE].card = card
    upload(folder)()
    assert fields(hub)["license"] == (card or {}).get("license", "gemma")
    assert fields(hub).get("license_name") == (card or {}).get("license_name")


@pytest.mark.parametrize("base", ["/home/me/gemma", "gs://bucket/gemma", "google/gone"])
def test_a_base_model_without_a_card_on_the_hub_has_the_licence_of_its_family(
    hub: HubServer, folder: Path, base: str
) -> None:
    card = CARD.replace(BASE, base).replace("license: gemma", "license: apache-2.0")
    (folder / "README.md").write_text(card + f"Made from {base}.\n")
    upload(folder, base_model_id=base)()
    assert fields(hub)["license"] == "apache-2.0"
    assert fields(hub).get("base_model") == (base if base == "google/gone" else None)
    card = hub.repositories[REPOSITORY].files["README.md"].decode()
    assert (f"Made from {base}." in card, "Made from gemma." in card) == (base == "google/gone", base != "google/gone")


def fields(hub: HubServer) -> dict[str, Any]:
    card = hub.repositories[REPOSITORY].files["README.md"].decode()
    return dict(yaml.safe_load(card.split("---\n")[1]))


def test_existing_files_are_not_sent_again_and_no_commit_is_empty(hub: HubServer, folder: Path) -> None:
    first = upload(folder)()
    hub.requests.clear()
    assert upload(folder)() == first
    assert (hub.count("put"), hub.count("part"), hub.count("commit")) == (0, 0, 0)
    (folder / "tokenizer.model").write_bytes(b"other pieces")
    assert upload(folder)() != first
    assert (hub.count("put"), hub.count("part"), hub.count("commit")) == (1, 0, 1)


def test_files_ignored_by_the_repository_are_published_nevertheless(hub: HubServer, folder: Path) -> None:
    repository = hub.add(REPOSITORY)
    repository.commit(repository.files | {".gitignore": b"adapter_model.safetensors adapter_config.json"}, "by hand")
    upload(folder)()
    del repository.files[".gitignore"]
    assert is_complete(hub, folder)


def test_a_whole_model_replaces_an_adapter_and_nothing_else(hub: HubServer, folder: Path) -> None:
    upload(folder)()
    repository = hub.repositories[REPOSITORY]
    repository.commit(repository.files | {"notes.md": b"mine", "model-00002-of-00002.safetensors": b"old"}, "by hand")
    (folder / "adapter_model.safetensors").rename(folder / "model.safetensors")
    (folder / "adapter_config.json").rename(folder / "config.json")
    upload(folder)()
    repository.commit(repository.files | {"model-q8_0.gguf": b"gguf"}, "by hand")
    upload(folder)()
    assert set(repository.files) == {
        ".gitattributes",
        "README.md",
        "notes.md",
        "config.json",
        "model.safetensors",
        "tokenizer.model",
        "model-q8_0.gguf",
        "more/empty.txt",
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "answers",
    [
        [Answer(500)],
        [Answer(429), Answer(502, b"<html>")],
        [CUT],
        [CUT_AFTER],
        [Answer(503, headers={"Retry-After": "1"}), CUT, Answer(429, headers={"Retry-After": "20"})],
    ],
)
def test_transient_errors_are_retried_until_the_repository_is_complete(
    hub: HubServer, folder: Path, kind: str, answers: list[Answer]
) -> None:
    hub.queued[kind] = list(answers)
    commit = upload(folder)()
    assert is_complete(hub, folder)
    repository = hub.repositories[REPOSITORY]
    assert (repository.sha, repository.private, len(repository.history)) == (commit, True, 2)
    assert hub.queued[kind] == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "hub_refused"),
        (401, "hub_token_refused"),
        (402, "hub_needs_payment"),
        (403, "hub_forbidden"),
        (404, "hub_repository_not_found"),
        (409, "hub_conflict"),
        (413, "hub_too_large"),
    ],
)
def test_permanent_errors_fail_with_a_hint(hub: HubServer, folder: Path, kind: str, status: int, code: str) -> None:
    hub.queued[kind] = [Answer(status, {"error": "because"})] * 40
    if (kind, status) in HARMLESS:
        upload(folder)()
        assert is_complete(hub, folder)
        return
    if (kind, status) == ("create", 409):  # the Hub says that it exists, but it does not
        code = "hub_repository_not_found"
    if kind in hub_server.STORAGE_KINDS and status != 413:
        code = "hub_storage_refused"
    error = refusal(hub, folder)
    assert error.code == code
    assert error.hint is not None
    assert "POST /jobs/{id}/exports" in error.hint
    assert TOKEN not in f"{error}{error.hint}{error.__cause__}{error.__context__}"
    repository = hub.repositories.get(REPOSITORY)
    assert repository is None or len(repository.history) == 1, "an incomplete model is published"


# Errors that do not matter: a file that arrived completely needs no verification.
HARMLESS = {("verify", 409)}


def test_an_unknown_token_and_a_read_only_one_fail_differently(hub: HubServer, folder: Path) -> None:
    assert refusal(hub, folder, token="hf_fakefakeunknown").code == "hub_token_refused"
    assert refusal(hub, folder, token=READ_ONLY_TOKEN).code == "hub_forbidden"
    hub.add(REPOSITORY)
    assert refusal(hub, folder, token=READ_ONLY_TOKEN).code == "hub_forbidden"
    assert refusal(hub, folder, repository="others/captain").code == "hub_forbidden"
    assert refusal(hub, folder, repository="me/a..b").code == "hub_repository_not_found"


@pytest.mark.parametrize("status", [400, 403, 404])
def test_an_expired_signed_link_is_requested_again(hub: HubServer, folder: Path, status: int) -> None:
    hub.queued["put"], hub.queued["part"] = [Answer(status)], [Answer(status)]
    upload(folder)()
    assert is_complete(hub, folder)


def test_a_large_upload_resumes_where_it_was_interrupted(hub: HubServer, folder: Path) -> None:
    hub.queued["commit"] = [Answer(503)] * 4
    with pytest.raises(TransientError):
        upload(folder)()
    assert len(hub.repositories[REPOSITORY].history) == 1
    sent = hub.count("part"), hub.count("put")
    upload(folder)()  # the step's next attempt
    assert (hub.count("part"), hub.count("put")) == sent
    assert is_complete(hub, folder)


def test_a_commit_by_others_during_the_upload_is_kept(hub: HubServer, folder: Path) -> None:
    repository = hub.add(REPOSITORY)
    preupload = hub._preupload

    def preupload_and_commit(body: bytes, repo: str) -> Answer:
        if hub.count("preupload") == 1:
            repository.commit(repository.files | {"notes.md": b"mine"}, "in between")
        return preupload(body, repo)

    hub._preupload = preupload_and_commit  # type: ignore[method-assign]
    upload(folder)()
    assert repository.files["notes.md"] == b"mine"
    assert "adapter_config.json" in repository.files
    assert hub.count("commit") == 2


def test_a_short_retry_after_is_waited_for_and_a_long_one_left_to_the_next_attempt(
    hub: HubServer, folder: Path, slept: list[float]
) -> None:
    waited: list[float] = []
    hub.queued["preupload"] = [Answer(429, headers={"Retry-After": "60"})]
    upload(folder, sleep=waited.append)()
    assert (sum(waited), sum(slept)) == (60, 0)
    hub.queued["info"] = [Answer(429, headers={"Retry-After": "3600"})]
    with pytest.raises(TransientError):
        upload(folder, sleep=waited.append)()
    assert sum(waited) == 60


def test_a_repository_created_by_others_meanwhile_is_used(hub: HubServer, folder: Path) -> None:
    hub.queued["create"] = [Answer(409, {"error": "You already created this model repo"}, after=True)]
    upload(folder)()
    assert is_complete(hub, folder)


def test_a_conflicting_create_is_retried_after_a_pause(hub: HubServer, folder: Path) -> None:
    message = "Cannot create repo: another conflicting operation is in progress"
    hub.queued["create"] = [Answer(409, {"error": message})] * 2
    waited: list[float] = []
    upload(folder, sleep=waited.append)()
    assert sum(waited) == 12
    assert is_complete(hub, folder)


@pytest.mark.parametrize("after", [1, 4, 6, 8])
def test_a_stop_is_noticed_before_the_next_request(hub: HubServer, folder: Path, after: int) -> None:
    calls: list[int] = []

    def check_stop() -> None:
        calls.append(1)
        if len(calls) > after:
            raise StopRequested

    with pytest.raises(StopRequested):
        upload(folder, check_stop=check_stop)()
    repository = hub.repositories.get(REPOSITORY)
    assert repository is None or len(repository.history) == 1


def test_neither_token_nor_signed_link_is_in_a_log_or_an_error(
    hub: HubServer, folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    errors = []
    for kind in KINDS:
        hub.queued[kind] = [Answer(500)] * 40
        try:
            upload(folder)()
        except TransientError as error:
            errors.append("".join(traceback.format_exception(error)))
        hub.queued.clear()
        hub.repositories.pop(REPOSITORY, None)
        hub.stored.clear()
    assert len(errors) >= len(KINDS) - 1
    out, err = capfd.readouterr()
    ours = "\n".join(r.getMessage() for r in caplog.records if not r.name.startswith(("httpx2", "httpcore2")))
    for text in (*errors, ours, out, err):
        assert TOKEN not in text
        assert "fakesignature" not in text
    assert TOKEN not in redact(caplog.text)


def test_settings_of_the_library_are_restored(hub: HubServer, folder: Path) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import _http, logging

    before = constants.HF_HUB_DISABLE_XET, logging.get_verbosity()
    upload(folder)()
    assert (constants.HF_HUB_DISABLE_XET, logging.get_verbosity()) == before
    assert _http._GLOBAL_CLIENT_FACTORY is _http.default_client_factory
    assert session.TIMEOUT > 0


def test_a_token_of_the_environment_is_not_used(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert refusal(hub, folder, token="hf_fakefakeunknown").code == "hub_token_refused"
