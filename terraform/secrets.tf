# The service and the command line create the secrets of jobs and users. This one is created here without a value:
# notify adds the key when it signs the first webhook, and so needs no right to create secrets.
resource "google_secret_manager_secret" "webhook_key" {
  secret_id = "gemtune-webhook-key"
  replication {
    auto {}
  }
  depends_on = [google_project_service.enabled]
}
