# The APIs that gemtune needs. They stay enabled after a destroy, as others in the project may use them.
locals {
  services = concat(
    [
      "artifactregistry", "cloudbuild", "cloudfunctions", "cloudquotas", "cloudresourcemanager", "cloudscheduler", "eventarc",
      "eventarcpublishing", "firestore", "iam", "iamcredentials", "logging", "monitoring", "pubsub", "run", "secretmanager",
      "serviceusage", "storage", "workflowexecutions", "workflows",
    ],
    var.budget == null ? [] : ["billingbudgets", "cloudbilling"],
    var.api_gateway == null ? [] : ["apigateway", "servicecontrol", "servicemanagement"],
  )
}

resource "google_project_service" "enabled" {
  for_each           = toset(local.services)
  service            = "${each.value}.googleapis.com"
  disable_on_destroy = false
}

# The project's number is part of the names of Google's service agents.
data "google_project" "this" {
  project_id = var.project_id
  depends_on = [google_project_service.enabled["cloudresourcemanager"]]
}

# Google's own accounts, which call our functions, topics and jobs. Google creates each one when its API is first used,
# and rejects references to it until then.
locals {
  agents       = toset(["eventarc", "pubsub", "workflows"])
  pubsub_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}

resource "google_project_service_identity" "agent" {
  for_each = local.agents
  provider = google-beta

  project    = var.project_id
  service    = "${each.value}.googleapis.com"
  depends_on = [google_project_service.enabled]
}

resource "google_project_iam_member" "agents" {
  for_each = local.agents

  project    = var.project_id
  role       = "roles/${each.value}.serviceAgent"
  member     = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-${each.value}.iam.gserviceaccount.com"
  depends_on = [google_project_service_identity.agent]
}

# A new agent can be refused for some minutes ("Permission denied while using the Eventarc Service Agent").
resource "time_sleep" "agents" {
  create_duration = "120s"
  depends_on      = [google_project_iam_member.agents, google_project_iam_member.storage_events]
}
