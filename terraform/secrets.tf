# The tokens of jobs and users are made by the service and the command line. This one is a name without a value: notify
# makes the key when it signs the first webhook, and so need not be allowed to make secrets.
resource "google_secret_manager_secret" "webhook_key" {
  secret_id = "gemtune-webhook-key"
  replication {
    auto {}
  }
  depends_on = [google_project_service.enabled]
}
