# Registries of the images of trainer/, and of those that Cloud Functions builds.
resource "google_artifact_registry_repository" "images" {
  for_each = { trainer = "Images of the steps", functions = "Images of the functions" }

  location      = var.region
  repository_id = "gemtune-${each.key}"
  description   = each.value
  format        = "DOCKER"

  # KEEP takes precedence over DELETE. Three versions are enough to roll back, and an image with CUDA has some 10 GB.
  cleanup_policies {
    id     = "keep-the-newest"
    action = "KEEP"
    most_recent_versions {
      keep_count = 3
    }
  }
  cleanup_policies {
    id     = "delete-the-old"
    action = "DELETE"
    condition {
      older_than = "1209600s" # 14 days
    }
  }

  depends_on = [google_project_service.enabled]
}
