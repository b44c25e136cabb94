# Registries of the images of trainer/, and of those that Cloud Functions builds.
resource "google_artifact_registry_repository" "images" {
  for_each = { trainer = "Images of the steps", functions = "Images of the functions" }

  location      = var.region
  repository_id = "gemtune-${each.key}"
  description   = each.value
  format        = "DOCKER"

  # KEEP takes precedence over DELETE. Jobs use images by digest, and never more than ten versions at a time.
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
