"""Requests of jobs can be shown and sent again."""

from __future__ import annotations

import pytest

from gemtune.errors import RequestRefused, SpecUnreadable
from gemtune.services.acceptance.stored_request import stored_request
from tests.fakes import World
from tests.services.test_export_again import export_again, trained

HOOK = {"webhook_url": "https://hooks.example.com/a-fake-secret"}
STORED = "secret:gemtune-user-wandb"


def test_a_request_without_secrets_makes_the_same_job(world: World) -> None:
    job = world.services.store.get(world.submit(job_name="Mine", training={"learning_rate": 3e-5}))
    stored = stored_request(world.services.buckets, job)
    assert stored.left_out == ()
    fields = stored.request.model_dump(mode="json")
    again = world.services.store.get(world.submit(training=fields.pop("training_config"), **fields))
    assert again.job_id != job.job_id
    assert again.request_hash == job.request_hash


def test_tokens_and_webhooks_are_named_and_references_are_shown(world: World) -> None:
    world.services.secrets.create("gemtune-user-wandb", "a fake key", ttl=None)
    wandb = {"project": "boats", "api_key": STORED}
    job = world.services.store.get(world.submit(hf_token="hf_fakefakefake", notify=HOOK, wandb_config=wandb))
    for is_over in (False, True):
        if is_over:
            world.services.cancel(job.job_id)
            world.services.fan_out(job.job_id)  # this deletes its secrets
            job = world.services.store.get(job.job_id)
        stored = stored_request(world.services.buckets, job)
        assert stored.left_out == ("hf_token", "notify.webhook_url")
        assert stored.request.wandb_config is not None
        assert stored.request.wandb_config.api_key == STORED
        assert "fake" not in stored.request.model_dump_json()


def test_a_lost_spec_is_a_conflict_for_all_who_read_it(world: World) -> None:
    running = trained(world)
    world.services.cancel(running.job_id)
    world.services.buckets.config.delete(running.job.spec_name)
    with pytest.raises(SpecUnreadable, match="its file is missing"):
        stored_request(world.services.buckets, running.job)
    with pytest.raises(SpecUnreadable, match="its file is missing"):
        export_again(world, running.job_id)
    with pytest.raises(RequestRefused) as refused:
        world.submit(training={"base_job_id": running.job_id, "base_model_id": None})
    assert "its file is missing" in str(refused.value.problems)
