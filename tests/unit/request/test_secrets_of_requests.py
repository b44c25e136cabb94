"""Secrets in requests: allowed places, references, and none in a stored spec."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from gemtune.jobs.sources import Source
from gemtune.request.parsing import read_export
from gemtune.request.spec import request_hash
from tests.fakes import FACTS, checked, request

TOKENS = {"hf_token": "hf_fakefakefake", "wandb_api_key": "a fake key"}
BODY = {"hf_token": TOKENS["hf_token"], "wandb_config": {"project": "p", "api_key": TOKENS["wandb_api_key"]}}
PLACES = [("hf_token",), ("wandb_config", "api_key")]


def with_secret(place: tuple[str, ...], value: str) -> dict[str, Any]:
    return request(**({"hf_token": value} if place == ("hf_token",) else {"wandb_config": {"api_key": value}}))


def test_a_spec_holds_no_secret_of_its_request() -> None:
    accepted = checked(request(**BODY)).require_valid()
    assert accepted.secrets() == TOKENS
    spec = accepted.spec().model_dump_json()
    assert not any(token in spec for token in TOKENS.values())
    assert accepted.spec().wandb_config is not None
    assert accepted.spec().wandb_config.project == "p"


@pytest.mark.parametrize("place", PLACES)
def test_a_token_is_accepted_over_http_and_refused_where_others_read_it(place: tuple[str, ...]) -> None:
    body = with_secret(place, "a fake key")
    assert checked(body, Source.HTTP).problems == ()
    for source in (Source.PUBSUB, Source.UPLOAD):
        assert [(each.loc, each.code) for each in checked(body, source).problems] == [(place, "secret_in_the_open")]


@pytest.mark.parametrize("place", PLACES)
def test_a_reference_to_a_users_own_secret_is_accepted_from_every_source(place: tuple[str, ...]) -> None:
    for source in Source:
        assert checked(with_secret(place, "secret:gemtune-user-mine"), source).problems == ()
        problems = checked(with_secret(place, "secret:gemtune-job-other"), source).problems
        assert [(each.loc, each.code) for each in problems] == [(place, "bad_secret_reference")]


def test_the_name_of_a_users_secret_has_up_to_64_characters() -> None:
    longest = "secret:gemtune-user-" + "aB_-" * 16
    assert checked(request(hf_token=longest), Source.UPLOAD).problems == ()
    (problem,) = checked(request(hf_token=longest + "c"), Source.UPLOAD).problems
    assert problem.code == "bad_secret_reference"


@pytest.mark.parametrize(("role", "place"), list(zip(TOKENS, PLACES, strict=True)))
def test_a_reference_to_a_missing_secret_is_refused_at_its_field(role: str, place: tuple[str, ...]) -> None:
    facts = dataclasses.replace(FACTS, missing_secrets=frozenset({role}))
    problems = checked(with_secret(place, "secret:gemtune-user-mine"), facts=facts).problems
    assert [(each.loc, each.code) for each in problems] == [(place, "secret_not_found")]


@pytest.mark.parametrize("field", ["job_name", "processed_dataset_id"])
def test_a_token_in_a_field_that_is_stored_is_refused(field: str) -> None:
    problems = checked(request(**{field: "hf_fakefakefakefakefake"})).problems
    assert [(each.loc, each.code) for each in problems] == [((field,), "secret_in_the_open")]


def test_an_export_request_may_contain_a_token_which_its_hash_ignores() -> None:
    """Accept it, as these requests arrive over HTTP only."""

    def hashed(parent: str, **fields: str) -> str:
        reading = read_export(json.dumps({"export_config": {"format": "merged"}} | fields))
        assert reading.problems == ()
        return request_hash(reading.require_valid(), parent_job_id=parent)

    assert hashed("a", hf_token="a fake token") == hashed("a", hf_token="another fake token") == hashed("a")
    assert hashed("a") != hashed("b")
    assert hashed("a") != hashed("a", job_name="another")
