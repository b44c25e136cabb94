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
  deletion_protection = false # it holds nothing; running jobs are resumed

  user_env_vars = {
    # The service's own address, which its identity tokens are made for.
    CONTROL_URL = google_cloudfunctions2_function.gemtune["control"].service_config[0].uri
    RUN_PARENT  = "projects/${var.project_id}/locations/${var.region}"
  }

  depends_on = [google_project_iam_member.gemtune]
}
