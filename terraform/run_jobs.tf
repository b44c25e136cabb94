# Cloud Run jobs of the steps. The function control tells the workflow which of them to run.
locals {
  steps = merge(
    {
      for step, machine in var.cpu_steps : step => {
        step = step, cpus = machine.cpus, memory_gib = machine.memory_gib, accelerator = null, image = "cpu"
      }
    },
    {
      for name, machine in var.machines : "train-${name}" => {
        step = "train", cpus = machine.cpus, memory_gib = machine.memory_gib, accelerator = machine.accelerator, image = machine.image
      }
    },
    {
      # Exports do not use the GPU, but Cloud Run offers more than 32 GiB only with one, and large models need it.
      for name, machine in var.machines : "export-${name}" => {
        step = "export", cpus = machine.cpus, memory_gib = machine.memory_gib, accelerator = machine.accelerator, image = machine.image
      } if machine.memory_gib > var.cpu_steps.export.memory_gib
    },
  )
}

locals {
  # Buckets that train and export read weights from. A copy would be in memory, as is the file system of a task; pages
  # of a mounted file are dropped when memory is needed. Cloud Run mounts buckets with implicit directories, so the parts
  # of an object's name are folders: https://cloud.google.com/run/docs/configuring/jobs/cloud-storage-volume-mounts
  mounts        = "/mnt/gemtune"
  mounted       = ["config", "data", "uploads", "export"]
  reads_weights = { GEMTUNE_MOUNTS = local.mounts }
}

resource "google_cloud_run_v2_job" "step" {
  for_each = local.steps

  name                = "gemtune-${each.key}"
  location            = var.region
  deletion_protection = false # it has no data
  # Cloud Run's newest accelerators are in preview.
  launch_stage = each.value.accelerator == null ? "GA" : "BETA"

  template {
    task_count  = 1
    parallelism = 1

    template {
      service_account       = google_service_account.gemtune[each.value.step].email
      timeout               = "${var.timeout_seconds[each.value.step]}s"
      execution_environment = "EXECUTION_ENVIRONMENT_GEN2"
      # The workflow retries steps, as control decides; Cloud Run must not retry them too.
      max_retries = 0
      # Zonal redundancy costs more and is not needed: an interrupted step resumes at its checkpoint, in any zone.
      gpu_zonal_redundancy_disabled = each.value.accelerator == null ? null : true

      dynamic "node_selector" {
        for_each = each.value.accelerator == null ? [] : [each.value.accelerator]
        content {
          accelerator = node_selector.value
        }
      }

      containers {
        image = var.images[each.value.image]
        # Always overridden with the step, its job and its claim. Without them the trainer prints its usage and fails.
        args = [each.value.step]

        resources {
          limits = merge(
            { cpu = tostring(each.value.cpus), memory = "${each.value.memory_gib}Gi" },
            each.value.accelerator == null ? {} : { "nvidia.com/gpu" = "1" },
          )
        }

        dynamic "volume_mounts" {
          for_each = each.value.step == "prepare" ? [] : local.mounted
          content {
            name       = volume_mounts.value
            mount_path = "${local.mounts}/${google_storage_bucket.gemtune[volume_mounts.value].name}"
          }
        }

        dynamic "env" {
          for_each = merge(
            local.every_function,
            local.prices,
            local.budgets,
            each.value.step == "prepare" ? local.chooses : local.reads_weights,
            each.value.step == "train" ? merge(local.wandb_key, local.unsloth) : local.hf_token,
          )
          content {
            name  = env.key
            value = env.value
          }
        }
      }

      dynamic "volumes" {
        for_each = each.value.step == "prepare" ? [] : local.mounted
        content {
          name = volumes.value
          gcs {
            bucket    = google_storage_bucket.gemtune[volumes.value].name
            read_only = true
          }
        }
      }
    }
  }

  depends_on = [google_project_service.enabled]
}
