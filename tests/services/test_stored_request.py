"""Requests of jobs can be shown and sent again."""

from __future__ import annotations

import pytest

from gemtune.errors import RequestRefused, SpecUnreadable
from gemtune.request.spec import TrainRequest
from gemtune.services.acceptance.stored_request import stored_request
from tests.fakes import World
from tests.services.test_export_again import export_again, trained

HOOK = {"webhook_url": "https://hooks.example.com/a-fake-secret"}
STORED = "secret:gemtune-user-wandb"


def test_a_request_without_secrets_makes_the_same_job(world: World) -> None:
    job = world.services.store.get(world.submit(job_name="Mine", training={"learning_rate": 3e-5}))
    stored = stored_request(world.services.buckets, job)
    assert stored.left_out == ()
    assert stored.path == "/train"
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
        assert isinstance(stored.request, TrainRequest)
        assert stored.request.wandb_config is not None
        assert stored.request.wandb_config.api_key == STORED
        assert "fake" not in stored.request.model_dump_json()


def test_the_request_of_an_export_has_no_training(world: World) -> None:
    """Sent again, it must not begin a training that nobody asked for."""
    running = trained(world, priority="low", max_hours=3.0)
    world.services.cancel(running.job_id)
    fields = {"format": "merged", "quantization": "fp16"}
    job = export_again(world, running.job_id, export_config=fields, job_name="Mine", hf_token="hf_fakefakefake")
    stored = stored_request(world.services.buckets, job)
    assert stored.path == f"/jobs/{running.job_id}/exports"
    assert stored.left_out == ("hf_token",)
    again = export_again(world, running.job_id, **stored.request.model_dump(mode="json"))
    assert again.job_id != job.job_id
    assert again.request_hash == job.request_hash


@pytest.mark.parametrize(("role", "field"), [("slack_token", "slack_token"), ("wandb_api_key", "wandb_config.api_key")])
@pytest.mark.parametrize("name", ["gemtune-user-x", "gemtune-job-x"])
def test_a_secret_without_a_field_for_it_is_a_conflict(world: World, role: str, field: str, name: str) -> None:
    """A newer version wrote such a record: without the secret it is another."""
    job = world.services.store.get(world.submit()).model_copy(update={"secret_names": {role: name}})
    with pytest.raises(SpecUnreadable, match=field):
        stored_request(world.services.buckets, job)


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
