# Roles on secrets, by their names. gemtune-job-…: secrets of one job, which the API creates and which are deleted when
# the job is over. gemtune-user-…: secrets that a user has stored, and that requests refer to.
locals {
  secret_roles = [
    # A token in an HTTP request is stored under the job's name. A repeated request finds that secret and renews it.
    { who = "api", secrets = "gemtune-job-", role = "roles/secretmanager.secretVersionAdder" },
    { who = "api", secrets = "gemtune-job-", role = local.custom_role["renew_secrets"] },
    # Deleted by DELETE /jobs/{id}, and if a concurrent request with the same idempotency key was first.
    { who = "api", secrets = "gemtune-job-", role = local.custom_role["remove_secrets"] },
    # To check that a secret exists that a request refers to.
    { who = "api", secrets = "gemtune-user-", role = "roles/secretmanager.secretAccessor" },
    { who = "dispatch", secrets = "gemtune-user-", role = "roles/secretmanager.secretAccessor" },
    { who = "ingest", secrets = "gemtune-user-", role = "roles/secretmanager.secretAccessor" },
    # Deleted when the job is over.
    { who = "fan-out", secrets = "gemtune-job-", role = local.custom_role["remove_secrets"] },
    # The same if fan-out missed the event, or if there is no such job.
    { who = "sweep", secrets = "gemtune-job-", role = local.custom_role["remove_secrets"] },
    # Postponed for jobs that wait for long, or that are paused.
    { who = "sweep", secrets = "gemtune-job-", role = local.custom_role["renew_secrets"] },
  ]

  # Each step postpones the expiry when it begins, and reads its job's tokens.
  secret_roles_of_steps = flatten([
    for who in ["prepare", "train", "export"] : [
      { who = who, secrets = "gemtune-job-", role = local.custom_role["renew_secrets"] },
      { who = who, secrets = "gemtune-job-", role = "roles/secretmanager.secretAccessor" },
      { who = who, secrets = "gemtune-user-", role = "roles/secretmanager.secretAccessor" },
    ]
  ])
}

# Conditions match names with the project's number; a version's name continues with /versions/….
resource "google_project_iam_member" "secrets" {
  for_each = {
    for grant in concat(local.secret_roles, local.secret_roles_of_steps) :
    "${grant.who} ${grant.secrets} ${basename(grant.role)}" => grant
  }

  project = var.project_id
  role    = each.value.role
  member  = google_service_account.gemtune[each.value.who].member
  condition {
    title      = trimsuffix(each.value.secrets, "-")
    expression = "resource.name.startsWith(\"projects/${data.google_project.this.number}/secrets/${each.value.secrets}\")"
  }

  depends_on = [google_project_iam_custom_role.gemtune]
}

# notify adds the signing key of webhooks once, and reads it for each delivery.
resource "google_secret_manager_secret_iam_member" "webhook_key" {
  for_each = toset(["roles/secretmanager.secretVersionAdder", "roles/secretmanager.secretAccessor"])

  secret_id = google_secret_manager_secret.webhook_key.secret_id
  role      = each.value
  member    = google_service_account.gemtune["notify"].member
}

# The service's own Hugging Face token and W&B key, for jobs without one: prepare downloads from the Hub, export uploads
# to it, and train writes to W&B.
resource "google_secret_manager_secret_iam_member" "of_service" {
  for_each = merge(
    var.hf_token_secret == null ? {} : {
      for who in ["prepare", "export"] : "${who} ${var.hf_token_secret}" => { who = who, secret = var.hf_token_secret }
    },
    var.wandb_key_secret == null ? {} : { "train ${var.wandb_key_secret}" = { who = "train", secret = var.wandb_key_secret } },
  )

  secret_id = each.value.secret
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.gemtune[each.value.who].member
}
