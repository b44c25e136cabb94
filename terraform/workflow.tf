locals {
  workflow = "fine-tune"
}

resource "google_workflows_workflow" "fine_tune" {
  name                = local.workflow
  region              = var.region
  description         = "Prepares, trains and exports one job"
  service_account     = google_service_account.gemtune["workflow"].id
  source_contents     = file("${path.module}/../workflows/fine_tune.yaml")
  call_log_level      = "LOG_ERRORS_ONLY"
  deletion_protection = false # it has no data; sweep resumes running jobs

  user_env_vars = {
    # The URL of the service, which is also the audience of identity tokens for it.
    CONTROL_URL = google_cloudfunctions2_function.gemtune["control"].service_config[0].uri
    RUN_PARENT  = "projects/${var.project_id}/locations/${var.region}"
  }

  depends_on = [google_project_iam_member.gemtune, time_sleep.agents]
}
