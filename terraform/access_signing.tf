# GET /jobs/{id}/artifacts: the API signs links as itself, by the IAM API, since a function has no key. A link lets its
# holder read what the API may read, for an hour.
resource "google_service_account_iam_member" "signer" {
  service_account_id = google_service_account.gemtune["api"].name
  role               = local.custom_role["sign_links"]
  member             = google_service_account.gemtune["api"].member
  depends_on         = [google_project_iam_custom_role.gemtune]
}
