# The APIs that gemtune needs. They stay enabled after a destroy, as others in the project may use them.
locals {
  services = concat(
    [
      "artifactregistry", "cloudbuild", "cloudfunctions", "cloudresourcemanager", "cloudscheduler", "eventarc",
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

locals {
  pubsub_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}
