# For GET /jobs/{id}/artifacts, GET /datasets/{id}/files and POST /datasets/{id}/part-links: the API signs links with its
# own identity. A function has no key, so the IAM API signs for it. For an hour, the holder of a link can read one object
# that the API can read, or write one part of an upload.
resource "google_service_account_iam_member" "signer" {
  service_account_id = google_service_account.gemtune["api"].name
  role               = local.custom_role["sign_links"]
  member             = google_service_account.gemtune["api"].member
  depends_on         = [google_project_iam_custom_role.gemtune]
}
