# The seven entry points of functions/main.py. Each is a function, which is a service of Cloud Run.
#
# memory: Google's clients take about 250 MiB. timeout_seconds: limit of the longest call. requests: concurrent requests
# per instance; functions-framework has as many threads, which mostly wait for the network. instances: together they
# fit beside one training into the quota of a new project, which has 20 CPUs and 40 GiB per region; `max_instances`
# raises them. settings: environment variables of functions/gemtune/settings.py, in addition to `every_function`.
locals {
  instances = merge({ api = 3, dispatch = 2, ingest = 2, fan-out = 2, notify = 1, control = 1 }, var.max_instances)

  functions = {
    # Most calls take less than a second, but the last one of an upload reads all of it to check its hashes. More than ten
    # minutes would not pass API Gateway.
    api = {
      memory   = "512Mi", timeout_seconds = 600, requests = 4, instances = local.instances["api"]
      settings = merge(local.launches, local.chooses, local.accepts, local.prices, local.gateway)
    }
    dispatch = {
      memory   = "512Mi", timeout_seconds = 120, requests = 4, instances = local.instances["dispatch"]
      settings = merge(local.launches, local.chooses, local.accepts, local.prices)
    }
    ingest = {
      memory   = "512Mi", timeout_seconds = 120, requests = 4, instances = local.instances["ingest"]
      settings = merge(local.chooses, local.accepts, local.prices)
    }
    # It publishes events one after the other, and enters into accounts what their jobs have taken.
    fan-out = { memory = "512Mi", timeout_seconds = 300, requests = 4, instances = local.instances["fan-out"], settings = local.prices }
    # Receivers of webhooks may take seconds to answer.
    notify  = { memory = "512Mi", timeout_seconds = 60, requests = 4, instances = local.instances["notify"], settings = {} }
    control = { memory = "512Mi", timeout_seconds = 60, requests = 4, instances = local.instances["control"], settings = merge(local.times, local.chooses, local.slots, local.prices, local.budgets) }
    # It checks all unfinished jobs. A second one at the same time would only repeat the work.
    sweep = { memory = "1Gi", timeout_seconds = 540, requests = 1, instances = 1, settings = merge(local.launches, local.times, local.prices) }
  }

  every_function = {
    GEMTUNE_BACKEND         = "gcp"
    PROJECT_ID              = var.project_id
    REGION                  = var.region
    GCS_CONFIG_BUCKET_NAME  = google_storage_bucket.gemtune["config"].name
    GCS_DATA_BUCKET_NAME    = google_storage_bucket.gemtune["data"].name
    GCS_UPLOADS_BUCKET_NAME = google_storage_bucket.gemtune["uploads"].name
    GCS_EXPORT_BUCKET_NAME  = google_storage_bucket.gemtune["export"].name
  }
  # For functions that start, read or end executions of the workflow.
  launches = { GEMTUNE_WORKFLOW = local.workflow }
  # For control, which tells the workflow a step's timeout, and sweep, which finds steps without a heartbeat.
  times = { for step, seconds in var.timeout_seconds : "GEMTUNE_${upper(step)}_TIMEOUT_SECONDS" => tostring(seconds) }
  # For control, which admits steps to machines.
  slots = { GEMTUNE_AT_ONCE = join(",", [for name, machine in var.machines : "${name}=${machine.at_once}"]) }
  # For functions that accept requests: they refuse what the images cannot do, W&B without a key, and too high caps.
  accepts = merge({ GEMTUNE_WITHOUT_GGUF = var.without_gguf ? "yes" : "no" }, local.wandb_key, local.unsloth, local.limits)
  limits  = { for name, limit in var.limits : "GEMTUNE_${upper(name)}" => tostring(limit) if limit != null }
  # For functions and steps that check an owner's budget of the month, too.
  budgets = { for name, limit in local.limits : name => limit if startswith(name, "GEMTUNE_OWNER_") }
  # For functions that plan or admit steps or keep accounts, and for steps, which end before their job costs too much.
  stated_prices = {
    for name, machine in merge(var.machines, var.cpu_steps) : name => machine.usd_per_hour if machine.usd_per_hour != null
  }
  prices = length(local.stated_prices) == 0 ? {} : {
    GEMTUNE_USD_PER_HOUR = join(",", [for name, price in local.stated_prices : "${name}=${price}"])
  }
  wandb_key = var.wandb_key_secret == null ? {} : { GEMTUNE_WANDB_API_KEY_SECRET = var.wandb_key_secret }
  # trainer/Dockerfile puts unsloth's interpreter there.
  unsloth = var.unsloth ? { GEMTUNE_UNSLOTH_PYTHON = "/opt/unsloth/current/bin/python" } : {}
  # Callers through the gateway all have its identity; with this setting the API reads theirs from the header.
  gateway = var.api_gateway == null ? {} : { GEMTUNE_GATEWAY = google_service_account.gemtune["gateway"].email }
  # For steps that download from the Hub, or upload to it.
  hf_token = var.hf_token_secret == null ? {} : { GEMTUNE_HF_TOKEN_SECRET = var.hf_token_secret }
  # For functions and steps that choose a job's machine: the first of the list that the job fits on. Machines are sorted
  # by size; those without a GPU come last, because most models would fit there, but would train slowly.
  chooses = {
    GEMTUNE_MACHINES = join(",", [
      for sized in sort([
        for name, machine in var.machines : format("%d %06d %s", machine.accelerator == null ? 1 : 0, machine.memory_gib, name)
      ]) : split(" ", sized)[2]
    ])
  }
}

locals {
  source_folder = "${path.module}/../functions"
  # functions/.gcloudignore lists what an upload leaves out, in .gitignore's syntax; the archive needs globs.
  ignored = [
    for line in split("\n", file("${local.source_folder}/.gcloudignore")) : trimspace(line)
    if trimspace(line) != "" && !startswith(trimspace(line), "#")
  ]
  excluded = [
    for name in local.ignored :
    "${strcontains(trimsuffix(name, "/"), "/") ? trimprefix(name, "/") : "**/${name}"}${endswith(name, "/") ? "**" : ""}"
  ]
}

data "archive_file" "functions" {
  type             = "zip"
  source_dir       = local.source_folder
  output_path      = "${path.module}/.build/functions.zip"
  output_file_mode = "0644" # the same archive on every machine
  excludes         = local.excluded
}

resource "google_storage_bucket_object" "functions" {
  bucket = google_storage_bucket.gemtune["source"].name
  # The name changes with the content, so that Terraform updates the functions.
  name   = "functions/${data.archive_file.functions.output_sha256}.zip"
  source = data.archive_file.functions.output_path
}

resource "google_cloudfunctions2_function" "gemtune" {
  for_each = local.functions

  name     = "gemtune-${each.key}"
  location = var.region

  build_config {
    runtime           = "python311"
    entry_point       = replace(each.key, "-", "_")
    service_account   = google_service_account.gemtune["build"].id
    docker_repository = google_artifact_registry_repository.images["functions"].id
    source {
      storage_source {
        bucket = google_storage_bucket.gemtune["source"].name
        object = google_storage_bucket_object.functions.name
      }
    }
  }

  service_config {
    service_account_email            = google_service_account.gemtune[each.key].email
    available_memory                 = each.value.memory
    available_cpu                    = "1"
    timeout_seconds                  = each.value.timeout_seconds
    max_instance_request_concurrency = each.value.requests
    min_instance_count               = 0
    max_instance_count               = each.value.instances
    # Calls by Pub/Sub, Eventarc, Scheduler and Workflows of this project to the service's own URL count as internal.
    ingress_settings               = each.key == "api" ? "ALLOW_ALL" : "ALLOW_INTERNAL_ONLY"
    all_traffic_on_latest_revision = true
    environment_variables          = merge(local.every_function, each.value.settings)
  }

  # Triggered by created events only; the job's own document changes far more often.
  dynamic "event_trigger" {
    for_each = each.key == "fan-out" ? [1] : []
    content {
      trigger_region        = google_firestore_database.records.location_id
      event_type            = "google.cloud.firestore.document.v1.created"
      retry_policy          = "RETRY_POLICY_RETRY"
      service_account_email = google_service_account.gemtune["events"].email
      event_filters {
        attribute = "database"
        value     = google_firestore_database.records.name
      }
      event_filters {
        attribute = "document"
        value     = "training_jobs/{job}/events/{seq}"
        operator  = "match-path-pattern"
      }
    }
  }

  # A function can have only one trigger; the one for the data bucket is below.
  dynamic "event_trigger" {
    for_each = each.key == "ingest" ? [1] : []
    content {
      trigger_region        = lower(google_storage_bucket.gemtune["uploads"].location)
      event_type            = "google.cloud.storage.object.v1.finalized"
      retry_policy          = "RETRY_POLICY_RETRY"
      service_account_email = google_service_account.gemtune["events"].email
      event_filters {
        attribute = "bucket"
        value     = google_storage_bucket.gemtune["uploads"].name
      }
    }
  }

  depends_on = [
    google_project_iam_member.storage_events,
    time_sleep.agents,
    time_sleep.build_roles,
  ]
}

# Trigger for job files in the data bucket, next to their dataset. It cannot be limited to some names. It has no retry
# policy, but always retries for a day.
resource "google_eventarc_trigger" "data_bucket" {
  count = var.job_files_in_data_bucket ? 1 : 0

  name            = "gemtune-ingest-data"
  location        = lower(google_storage_bucket.gemtune["data"].location)
  service_account = google_service_account.gemtune["events"].email

  matching_criteria {
    attribute = "type"
    value     = "google.cloud.storage.object.v1.finalized"
  }
  matching_criteria {
    attribute = "bucket"
    value     = google_storage_bucket.gemtune["data"].name
  }

  destination {
    cloud_run_service {
      service = google_cloudfunctions2_function.gemtune["ingest"].name
      region  = var.region
    }
  }

  depends_on = [
    google_project_iam_member.gemtune,
    google_project_iam_member.storage_events,
    google_cloud_run_v2_service_iam_member.invoker,
    time_sleep.agents,
  ]
}
