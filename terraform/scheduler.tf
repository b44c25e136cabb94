resource "google_cloud_scheduler_job" "sweep" {
  name             = "gemtune-sweep"
  region           = var.region
  description      = "Repairs jobs whose messages or executions were lost"
  schedule         = "*/3 * * * *" # the time within which a launch has to be claimed
  time_zone        = "Etc/UTC"
  attempt_deadline = "${local.functions["sweep"].timeout_seconds}s"

  # The next run follows soon enough.
  retry_config {
    retry_count = 0
  }

  http_target {
    http_method = "POST"
    uri         = google_cloudfunctions2_function.gemtune["sweep"].service_config[0].uri
    oidc_token {
      service_account_email = google_service_account.gemtune["scheduler"].email
      audience              = google_cloudfunctions2_function.gemtune["sweep"].service_config[0].uri
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_member.invoker]
}
