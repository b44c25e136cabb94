# The steps. control answers the workflow with the names of these jobs.
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
      # No export computes on a GPU, but Cloud Run has more memory only beside one: for exports of large models.
      for name, machine in var.machines : "export-${name}" => {
        step = "export", cpus = machine.cpus, memory_gib = machine.memory_gib, accelerator = machine.accelerator, image = machine.image
      } if machine.memory_gib > var.cpu_steps.export.memory_gib
    },
  )
}

resource "google_cloud_run_v2_job" "step" {
  for_each = local.steps

  name                = "gemtune-${each.key}"
  location            = var.region
  deletion_protection = false # it holds nothing
  # What runs on Cloud Run's newest accelerators is in preview for longer than what does not.
  launch_stage = each.value.accelerator == null ? "GA" : "BETA"

  template {
    task_count  = 1
    parallelism = 1

    template {
      service_account       = google_service_account.gemtune["trainer"].email
      timeout               = "${var.timeout_seconds[each.value.step]}s"
      execution_environment = "EXECUTION_ENVIRONMENT_GEN2"
      # The workflow tries again, as control says: one place decides.
      max_retries = 0
      # A step that stops goes on at its checkpoint, in another zone too; a GPU held ready there costs more.
      gpu_zonal_redundancy_disabled = each.value.accelerator == null ? null : true

      dynamic "node_selector" {
        for_each = each.value.accelerator == null ? [] : [each.value.accelerator]
        content {
          accelerator = node_selector.value
        }
      }

      containers {
        image = var.images[each.value.image]
        # Always overridden, by the step, its job and its claim; alone it says how it is used, and fails.
        args = [each.value.step]

        resources {
          limits = merge(
            { cpu = tostring(each.value.cpus), memory = "${each.value.memory_gib}Gi" },
            each.value.accelerator == null ? {} : { "nvidia.com/gpu" = "1" },
          )
        }

        dynamic "env" {
          for_each = merge(
            local.every_function,
            each.value.step == "prepare" ? local.chooses : {},
            each.value.step == "train" ? merge(local.wandb_key, local.unsloth) : local.hf_token,
          )
          content {
            name  = env.key
            value = env.value
          }
        }
      }
    }
  }

  depends_on = [google_project_service.enabled]
}
