# The images of trainer/, and those that Cloud Functions builds.
resource "google_artifact_registry_repository" "images" {
  for_each = { trainer = "Images of the steps", functions = "Images of the functions" }

  location      = var.region
  repository_id = "gemtune-${each.key}"
  description   = each.value
  format        = "DOCKER"

  # A kept version wins over a rule that deletes; jobs name images by digest, and ten versions are more than are in use.
  cleanup_policies {
    id     = "keep-the-newest"
    action = "KEEP"
    most_recent_versions {
      keep_count = 10
    }
  }
  cleanup_policies {
    id     = "delete-the-old"
    action = "DELETE"
    condition {
      older_than = "7776000s" # 90 days
    }
  }

  depends_on = [google_project_service.enabled]
}
