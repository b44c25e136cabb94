# config: specs. data: datasets. uploads: job files. export: results of jobs, and cached weights. source: sources of the
# functions and images.
locals {
  buckets = {
    config  = { keeps_deleted_seconds = 0 }
    data    = { keeps_deleted_seconds = 604800 }
    uploads = { keeps_deleted_seconds = 604800 }
    # No soft delete: DELETE /jobs/{id} promises that everything is gone, and deleted checkpoints would cost money.
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

  # Parts of interrupted uploads cost money and are not listed.
  lifecycle_rule {
    condition {
      age = 7
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  # A rule cannot match jobs/*/checkpoints/, but only checkpoints have these files, which are two thirds of their size.
  # A checkpoint without them counts as incomplete and is skipped.
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

  # Base models from the Hub that no job has used for long; the next one copies them again. The trainer sets the custom
  # time of their files at each use. Files without one never match.
  dynamic "lifecycle_rule" {
    for_each = each.key == "export" ? [1] : []
    content {
      condition {
        days_since_custom_time = var.model_days
        matches_prefix         = ["models/"]
      }
      action {
        type = "Delete"
      }
    }
  }

  # A build's sources are useless after it. The functions' archives stay, because a rollback may need one.
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

# Cloud Storage's service agent, which publishes notifications of new objects to a topic of Eventarc.
data "google_storage_project_service_account" "agent" {
  depends_on = [google_project_service.enabled]
}
