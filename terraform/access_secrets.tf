# Who may do what with which secrets, by their names: gemtune-job-… is one job's, made by the api, and deleted when the
# job is over; gemtune-user-… is one that a user stored and requests refer to.
locals {
  secret_roles = [
    # A token that came over HTTP is stored under the job's name; a repeated call finds the secret there and renews it.
    { who = "api", secrets = "gemtune-job-", role = "roles/secretmanager.secretVersionAdder" },
    { who = "api", secrets = "gemtune-job-", role = local.custom_role["renew_secrets"] },
    # A request that lost against another with its key takes its secrets back; DELETE /jobs/{id} does too.
    { who = "api", secrets = "gemtune-job-", role = local.custom_role["remove_secrets"] },
    # Whether a secret that a request refers to is there.
    { who = "api", secrets = "gemtune-user-", role = "roles/secretmanager.secretAccessor" },
    { who = "dispatch", secrets = "gemtune-user-", role = "roles/secretmanager.secretAccessor" },
    { who = "ingest", secrets = "gemtune-user-", role = "roles/secretmanager.secretAccessor" },
    # The job is over.
    { who = "fan-out", secrets = "gemtune-job-", role = local.custom_role["remove_secrets"] },
    # The job is over and nobody heard of it, or there is none.
    { who = "sweep", secrets = "gemtune-job-", role = local.custom_role["remove_secrets"] },
    # A step that begins puts off the expiry, and reads its job's token.
    { who = "trainer", secrets = "gemtune-job-", role = local.custom_role["renew_secrets"] },
    { who = "trainer", secrets = "gemtune-job-", role = "roles/secretmanager.secretAccessor" },
    { who = "trainer", secrets = "gemtune-user-", role = "roles/secretmanager.secretAccessor" },
  ]
}

# The name in a condition has the project's number, and goes on with /versions/… where a version is meant.
resource "google_project_iam_member" "secrets" {
  for_each = { for grant in local.secret_roles : "${grant.who} ${grant.secrets} ${basename(grant.role)}" => grant }

  project = var.project_id
  role    = each.value.role
  member  = google_service_account.gemtune[each.value.who].member
  condition {
    title      = trimsuffix(each.value.secrets, "-")
    expression = "resource.name.startsWith(\"projects/${data.google_project.this.number}/secrets/${each.value.secrets}\")"
  }

  depends_on = [google_project_iam_custom_role.gemtune]
}

# notify makes the key of webhooks once, and reads it for each.
resource "google_secret_manager_secret_iam_member" "webhook_key" {
  for_each = toset(["roles/secretmanager.secretVersionAdder", "roles/secretmanager.secretAccessor"])

  secret_id = google_secret_manager_secret.webhook_key.secret_id
  role      = each.value
  member    = google_service_account.gemtune["notify"].member
}

# The service's own token and key, for jobs that bring none.
resource "google_secret_manager_secret_iam_member" "of_service" {
  for_each = toset(compact([var.hf_token_secret, var.wandb_key_secret]))

  secret_id = each.value
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.gemtune["trainer"].member
}
