# config: specs. data: datasets. uploads: job files. export: everything of a job, and cached weights.
# source: what functions and images are built from.
locals {
  buckets = {
    config  = { keeps_deleted_seconds = 0 }
    data    = { keeps_deleted_seconds = 604800 }
    uploads = { keeps_deleted_seconds = 604800 }
    # DELETE /jobs/{id} promises that all of a job is gone, and deleted checkpoints would cost for another week.
    export = { keeps_deleted_seconds = 0 }
    source = { keeps_deleted_seconds = 0 }
  }
}

resource "google_storage_bucket" "gemtune" {
  for_each = local.buckets

  name                        = "${var.project_id}-gemtune-${each.key}"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.delete_data || each.key == "source"

  soft_delete_policy {
    retention_duration_seconds = each.value.keeps_deleted_seconds
  }

  # Parts of uploads that did not end show nowhere, and cost.
  lifecycle_rule {
    condition {
      age = 7
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  # A rule cannot name jobs/*/checkpoints/, but these files are in checkpoints only, and are two thirds of one. Without
  # them it counts as broken, and is passed over.
  dynamic "lifecycle_rule" {
    for_each = each.key == "export" ? [1] : []
    content {
      condition {
        age            = var.checkpoint_days
        matches_prefix = ["jobs/"]
        matches_suffix = ["/optimizer.pt", "/scheduler.pt", "/rng_state.pth"]
      }
      action {
        type = "Delete"
      }
    }
  }

  # Uploads of a build, of no use after it. The archives of the functions stay: a rollback may need one.
  dynamic "lifecycle_rule" {
    for_each = each.key == "source" ? [1] : []
    content {
      condition {
        age            = 14
        matches_prefix = ["builds/"]
      }
      action {
        type = "Delete"
      }
    }
  }

  depends_on = [google_project_service.enabled]
}

# Storage tells Eventarc of new objects by a topic that Eventarc makes; its agent publishes there.
data "google_storage_project_service_account" "agent" {
  depends_on = [google_project_service.enabled]
}
