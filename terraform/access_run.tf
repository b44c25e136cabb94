# Roles to call functions, and to run and end steps.
locals {
  invokers = merge(
    {
      "control workflow" = google_service_account.gemtune["workflow"].member  # asks for a claim, and for verdicts
      "sweep scheduler"  = google_service_account.gemtune["scheduler"].member # every few minutes
      "dispatch push"    = google_service_account.gemtune["push"].member      # messages of job-requests
      "notify push"      = google_service_account.gemtune["push"].member      # messages of webhooks
      "ingest events"    = google_service_account.gemtune["events"].member    # objects
      "fan-out events"   = google_service_account.gemtune["events"].member    # events of jobs
    },
    { for member in var.callers : "api ${member}" => member },
    var.api_gateway == null ? {} : { "api gateway" = google_service_account.gemtune["gateway"].member },
  )
}

resource "google_cloud_run_v2_service_iam_member" "invoker" {
  for_each = local.invokers

  location = var.region
  name     = google_cloudfunctions2_function.gemtune[split(" ", each.key)[0]].name
  role     = "roles/run.invoker"
  member   = each.value
}

# The workflow runs Cloud Run jobs with the arguments and the timeout of a step.
resource "google_cloud_run_v2_job_iam_member" "run" {
  for_each = google_cloud_run_v2_job.step

  location = each.value.location
  name     = each.value.name
  role     = "roles/run.jobsExecutorWithOverrides"
  member   = google_service_account.gemtune["workflow"].member
}

# The API has datasets checked by the job of the prepare step.
resource "google_cloud_run_v2_job_iam_member" "check" {
  location = google_cloud_run_v2_job.step["prepare"].location
  name     = google_cloud_run_v2_job.step["prepare"].name
  role     = "roles/run.jobsExecutorWithOverrides"
  member   = google_service_account.gemtune["api"].member
}

# The API ends the step of a cancelled job, sweep that of a lost execution, and control one that stays pending.
resource "google_cloud_run_v2_job_iam_member" "end" {
  for_each = {
    for pair in setproduct(["api", "control", "sweep"], keys(local.steps)) : "${pair[1]} ${pair[0]}" => { who = pair[0], step = pair[1] }
  }

  location   = google_cloud_run_v2_job.step[each.value.step].location
  name       = google_cloud_run_v2_job.step[each.value.step].name
  role       = local.custom_role["end_steps"]
  member     = google_service_account.gemtune[each.value.who].member
  depends_on = [google_project_iam_custom_role.gemtune]
}
