# One service account per part. The files access_*.tf grant their roles.
locals {
  service_accounts = merge(
    {
      api       = "The HTTP API"
      dispatch  = "Receives job-requests, launches jobs"
      ingest    = "Receives job files"
      fan-out   = "Publishes events"
      notify    = "Delivers webhooks"
      control   = "Answers the workflow"
      sweep     = "Repairs jobs whose messages or executions were lost"
      workflow  = "Runs the steps of a job"
      prepare   = "The step prepare, and checks of datasets"
      train     = "The step train"
      export    = "The step export"
      scheduler = "Calls sweep"
      push      = "Identity of Pub/Sub in calls of dispatch and notify"
      events    = "Identity of Eventarc in calls of ingest and fan-out"
      build     = "Builds the functions and the images"
    },
    var.api_gateway == null ? {} : { gateway = "Identity of API Gateway in calls of the API" },
  )
}

resource "google_service_account" "gemtune" {
  for_each = local.service_accounts

  account_id   = "gemtune-${each.key}"
  display_name = "gemtune ${each.key}"
  description  = each.value
  depends_on   = [google_project_service.enabled]
}
