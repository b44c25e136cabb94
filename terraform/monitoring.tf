resource "google_monitoring_notification_channel" "email" {
  for_each = toset(var.alert_emails)

  display_name = each.value
  type         = "email"
  labels       = { email_address = each.value }
  depends_on   = [google_project_service.enabled]
}

# Metrics from log lines of functions/gemtune/services; tests look for these lines there.
locals {
  log_metrics = {
    failed_jobs = {
      function = "fan-out|sweep" # sweep publishes events that fan-out missed
      line     = "^job [a-z0-9_-]+: job_failed$"
      tells    = "Jobs that failed, counted by published events"
    }
    relaunched_jobs = {
      function = "sweep"
      line     = "^job [a-z0-9_-]+ is launched again: "
      tells    = "Jobs that were launched again: their execution ended early, or their step sent no heartbeat"
    }
    unmended = {
      function = "sweep"
      line     = "^the sweep could not repair "
      tells    = "Repairs of the sweep that failed"
    }
  }
}

resource "google_logging_metric" "gemtune" {
  for_each = local.log_metrics

  name        = "gemtune/${each.key}"
  description = each.value.tells
  filter      = <<-EOT
    resource.type="cloud_run_revision"
    resource.labels.service_name=~"^gemtune-(${each.value.function})$"
    jsonPayload.message=~"${each.value.line}"
  EOT
  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
  }
  depends_on = [google_project_service.enabled]
}

# Alerts on a new metric are refused until it is known everywhere, which Google says can take ten minutes.
resource "time_sleep" "log_metrics" {
  create_duration = "600s"
  depends_on      = [google_logging_metric.gemtune]
}

locals {
  hour = "3600s"
  day  = "86400s"

  # Alerts on Google's metrics, and on ours (user/). An alert fires when a value within `window` exceeds `above`.
  alerts = {
    dead_letters = {
      title  = "a message could not be delivered"
      advice = "Pull the subscription to see the message: `gcloud pubsub subscriptions pull NAME-dead`. Fix what refused it, and publish it again. Requests are in job-requests-dead, webhooks in webhooks-dead."
      filter = "metric.type=\"pubsub.googleapis.com/subscription/num_undelivered_messages\" AND resource.type=\"pubsub_subscription\" AND resource.labels.subscription_id=one_of(${join(", ", [for subscription in google_pubsub_subscription.dead : "\"${subscription.name}\""])})"
      window = "300s", aligner = "ALIGN_MAX", above = 0
    }
    failed_jobs = {
      title  = "jobs fail"
      advice = "GET /jobs?status=failed lists them; the status of each says why and what to do."
      filter = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.gemtune["failed_jobs"].name}\" AND resource.type=\"cloud_run_revision\""
      window = local.hour, aligner = "ALIGN_DELTA", above = var.failed_jobs_per_hour
    }
    stuck_jobs = {
      title  = "jobs got stuck and were launched again"
      advice = "A single restart is nothing to worry about; after the fourth the job fails. The log of gemtune-sweep has the jobs and the reasons."
      filter = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.gemtune["relaunched_jobs"].name}\" AND resource.type=\"cloud_run_revision\""
      window = local.hour, aligner = "ALIGN_DELTA", above = 0
    }
    unmended = {
      title  = "the sweep cannot repair something"
      advice = "The log of gemtune-sweep has the error; the sweep retries every few minutes."
      filter = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.gemtune["unmended"].name}\" AND resource.type=\"cloud_run_revision\""
      window = local.hour, aligner = "ALIGN_DELTA", above = 0
    }
    gpu_hours = {
      title  = "more GPU hours within a day than ${var.gpu_hours_per_day}"
      advice = "GET /jobs?status=training lists running trainings; POST /jobs/{id}/cancel ends one."
      filter = "metric.type=\"run.googleapis.com/container/billable_instance_time\" AND resource.type=\"cloud_run_job\" AND resource.labels.job_name=monitoring.regex.full_match(\"gemtune-(train|export)-(${join("|", local.gpu_machines)})\")"
      window = local.day, aligner = "ALIGN_DELTA", above = var.gpu_hours_per_day * 3600
    }
  }

  gpu_machines = [for name, machine in var.machines : name if machine.accelerator != null]
}

resource "google_monitoring_alert_policy" "gemtune" {
  for_each = { for name, alert in local.alerts : name => alert if name != "gpu_hours" || length(local.gpu_machines) > 0 }

  display_name          = "gemtune: ${each.value.title}"
  combiner              = "OR"
  notification_channels = [for channel in google_monitoring_notification_channel.email : channel.id]
  documentation {
    content   = each.value.advice
    mime_type = "text/markdown"
  }
  conditions {
    display_name = each.value.title
    condition_threshold {
      filter          = each.value.filter
      comparison      = "COMPARISON_GT"
      threshold_value = each.value.above
      duration        = "0s"
      aggregations {
        alignment_period     = each.value.window
        per_series_aligner   = each.value.aligner
        cross_series_reducer = "REDUCE_SUM"
      }
      trigger {
        count = 1
      }
    }
  }

  depends_on = [google_project_service.enabled, time_sleep.log_metrics]
}

# Without the sweep nothing is repaired.
resource "google_monitoring_alert_policy" "no_sweep" {
  display_name          = "gemtune: the sweep does not run"
  combiner              = "OR"
  notification_channels = [for channel in google_monitoring_notification_channel.email : channel.id]
  documentation {
    content   = "Check whether the Cloud Scheduler job gemtune-sweep is paused, and read the log of the function gemtune-sweep."
    mime_type = "text/markdown"
  }
  conditions {
    display_name = "no successful sweep for half an hour"
    condition_absent {
      filter   = "metric.type=\"run.googleapis.com/request_count\" AND resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"${google_cloudfunctions2_function.gemtune["sweep"].name}\" AND metric.labels.response_code_class=\"2xx\""
      duration = "1800s"
      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  depends_on = [google_project_service.enabled]
}
