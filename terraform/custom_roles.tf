# Single permissions that predefined roles contain only together with many others.
locals {
  custom_roles = {
    end_executions = { title = "End executions of workflows", permissions = ["workflows.executions.cancel"] }
    end_steps      = { title = "Find and end executions of Cloud Run jobs", permissions = ["run.executions.cancel", "run.executions.list"] }
    watch_steps    = { title = "Follow executions of Cloud Run jobs", permissions = ["run.executions.get", "run.jobs.get", "run.operations.get"] }
    sign_links     = { title = "Sign links as a service account", permissions = ["iam.serviceAccounts.signBlob"] }
    make_secrets   = { title = "Create secrets, without a value", permissions = ["secretmanager.secrets.create"] }
    list_secrets   = { title = "List secrets", permissions = ["secretmanager.secrets.list"] }
    renew_secrets  = { title = "Postpone the expiry of secrets", permissions = ["secretmanager.secrets.update"] }
    remove_secrets = { title = "Delete secrets", permissions = ["secretmanager.secrets.delete"] }
    read_logs      = { title = "Read logs", permissions = ["logging.logEntries.list"] }
    remove_objects = { title = "Delete objects", permissions = ["storage.objects.delete"] }
  }
  # Names are composed here rather than read from the resources, so that a plan shows them before they exist.
  custom_role = { for name, _ in local.custom_roles : name => "projects/${var.project_id}/roles/gemtune_${name}" }
}

resource "google_project_iam_custom_role" "gemtune" {
  for_each = local.custom_roles

  role_id     = "gemtune_${each.key}"
  title       = "gemtune: ${each.value.title}"
  permissions = each.value.permissions
  depends_on  = [google_project_service.enabled]
}
