# One identity for each part; what it may do is in the files access_*.tf.
locals {
  service_accounts = merge(
    {
      api       = "The HTTP API"
      dispatch  = "Receives job-requests, launches jobs"
      ingest    = "Receives job files"
      fan-out   = "Publishes events"
      notify    = "Delivers webhooks"
      control   = "Answers the workflow"
      sweep     = "Makes good what got lost"
      workflow  = "Runs the steps of a job"
      trainer   = "The steps: prepare, train, export"
      scheduler = "Calls sweep"
      push      = "Pub/Sub calls dispatch and notify with it"
      events    = "Eventarc calls ingest and fan-out with it"
      build     = "Builds the functions and the images"
    },
    var.api_gateway == null ? {} : { gateway = "API Gateway calls the API with it" },
  )
}

resource "google_service_account" "gemtune" {
  for_each = local.service_accounts

  account_id   = "gemtune-${each.key}"
  display_name = "gemtune ${each.key}"
  description  = each.value
  depends_on   = [google_project_service.enabled]
}
