# Tests of what the variables change, run by `terraform test`. They create nothing, and ask for no input.
mock_provider "google" {}
mock_provider "google-beta" {}
mock_provider "archive" {}
mock_provider "time" {}

variables {
  project_id = "example-project"
  region     = "us-central1"
  images = {
    cpu   = "us-central1-docker.pkg.dev/example-project/gemtune-trainer/cpu@sha256:0000000000000000000000000000000000000000000000000000000000000000"
    cu126 = "us-central1-docker.pkg.dev/example-project/gemtune-trainer/cu126@sha256:1111111111111111111111111111111111111111111111111111111111111111"
    cu130 = "us-central1-docker.pkg.dev/example-project/gemtune-trainer/cu130@sha256:2222222222222222222222222222222222222222222222222222222222222222"
  }
}

run "by_default_it_is_private_and_warns_nobody" {
  command = plan

  assert {
    condition     = length(google_api_gateway_gateway.gemtune) == 0 && length(google_billing_budget.gemtune) == 0
    error_message = "no gateway and no budget unless asked for"
  }
  assert {
    condition     = !anytrue([for name, _ in google_cloud_run_v2_service_iam_member.invoker : startswith(name, "api ")])
    error_message = "nobody may call the API unless named"
  }
  assert {
    condition     = google_firestore_database.records.location_id == "us-central1"
    error_message = "the records are in the region"
  }
  assert {
    condition     = google_firestore_database.records.deletion_policy == "ABANDON" && !google_storage_bucket.gemtune["data"].force_destroy
    error_message = "a destroy leaves data alone"
  }
}

run "who_is_named_may_call" {
  command = plan
  variables {
    callers = ["group:team@example.com"]
  }

  assert {
    condition     = google_cloud_run_v2_service_iam_member.invoker["api group:team@example.com"].role == "roles/run.invoker"
    error_message = "a caller invokes the api"
  }
}

# The tests in Python have lists with several members; the run above has empty ones.
run "one_of_each_is_enough" {
  command = plan
  variables {
    callers              = ["user:me@example.com"]
    publishers           = ["user:me@example.com"]
    uploaders            = ["user:me@example.com"]
    alert_emails         = ["me@example.com"]
    budget               = { billing_account = "012345-6789AB-CDEF01", amount = 1 }
    status_subscriptions = { ends = { members = [] } }
    limits               = { max_hours = 1 }
  }

  assert {
    condition     = length(google_billing_budget.gemtune[0].all_updates_rule[0].monitoring_notification_channels) == 1
    error_message = "the budget warns whom the alerts warn"
  }
}

run "a_budget_can_warn_nobody_but_the_billing_account" {
  command = plan
  variables {
    budget = { billing_account = "012345-6789AB-CDEF01", amount = 1 }
  }

  assert {
    condition     = length(google_billing_budget.gemtune[0].all_updates_rule) == 0
    error_message = "there is no address to warn"
  }
}

run "another_region_moves_all" {
  command = plan
  variables {
    region             = "europe-west4"
    firestore_location = "eur3"
  }

  assert {
    condition     = alltrue([for bucket in google_storage_bucket.gemtune : bucket.location == "europe-west4"])
    error_message = "buckets are in the region"
  }
  assert {
    condition     = google_cloudfunctions2_function.gemtune["fan-out"].event_trigger[0].trigger_region == "eur3"
    error_message = "fan_out hears of events where the records are"
  }
  assert {
    condition     = google_workflows_workflow.fine_tune.user_env_vars.RUN_PARENT == "projects/example-project/locations/europe-west4"
    error_message = "the workflow runs jobs of the region"
  }
}

run "a_machine_without_a_gpu" {
  command = plan
  variables {
    machines = {
      cpu = { cpus = 8, memory_gib = 32, image = "cpu" }
    }
    timeout_seconds = { train = 86400 }
  }

  assert {
    condition     = length(google_cloud_run_v2_job.step["train-cpu"].template[0].template[0].node_selector) == 0
    error_message = "it has no accelerator"
  }
  assert {
    condition     = google_cloud_run_v2_job.step["train-cpu"].template[0].template[0].timeout == "86400s"
    error_message = "without a GPU a task may take a day"
  }
  assert {
    condition     = !contains(keys(google_monitoring_alert_policy.gemtune), "gpu_hours")
    error_message = "there are no GPU hours to count"
  }
}

run "outside_callers_come_through_the_gateway" {
  command = plan
  variables {
    api_gateway = {
      issuer   = "https://issuer.example.com"
      jwks_uri = "https://issuer.example.com/keys"
      audience = "gemtune"
    }
  }

  assert {
    condition     = google_api_gateway_gateway.gemtune["this"].region == "us-central1"
    error_message = "the gateway is in the service's region, unless another is named"
  }
  assert {
    condition     = contains(keys(google_cloud_run_v2_service_iam_member.invoker), "api gateway")
    error_message = "the gateway calls the api as itself"
  }
  assert {
    condition     = contains(keys(google_project_service.enabled), "apigateway")
    error_message = "its API is enabled"
  }
}

run "data_may_be_deleted_when_told" {
  command = plan
  variables {
    delete_data = true
  }

  assert {
    condition     = alltrue([for bucket in google_storage_bucket.gemtune : bucket.force_destroy]) && google_firestore_database.records.deletion_policy == "DELETE"
    error_message = "all of it"
  }
  assert {
    condition     = google_firestore_database.records.delete_protection_state == "DELETE_PROTECTION_DISABLED"
    error_message = "a protected database cannot be deleted"
  }
}

run "machines_are_tried_from_small_to_large_and_a_cpu_last" {
  command = plan
  variables {
    machines = {
      cpu          = { cpus = 8, memory_gib = 32, image = "cpu" }
      rtx-pro-6000 = { accelerator = "nvidia-rtx-pro-6000", cpus = 20, memory_gib = 128, image = "cu130" }
      l4           = { accelerator = "nvidia-l4", cpus = 8, memory_gib = 32, image = "cu126" }
    }
  }

  assert {
    condition     = local.chooses.GEMTUNE_MACHINES == "l4,rtx-pro-6000,cpu"
    error_message = "the first that fits is taken: a job should not wait for a CPU, nor pay for a large GPU"
  }
  assert {
    condition     = [for name in keys(google_cloud_run_v2_job.step) : name if startswith(name, "export")] == ["export", "export-rtx-pro-6000"]
    error_message = "exports of large models need a machine with more memory than exports have"
  }
}
