output "api_url" {
  description = "The API, for `callers` with an identity token made for this address."
  value       = google_cloudfunctions2_function.gemtune["api"].service_config[0].uri
}

output "topics" {
  description = "Full names: publish requests on job-requests, listen to job-status; the -dead ones keep what could not be delivered."
  value       = { for name, topic in google_pubsub_topic.gemtune : name => topic.id }
}

output "buckets" {
  description = "config: specs; data: datasets; uploads: job files; export: results; source: what is built."
  value       = { for name, bucket in google_storage_bucket.gemtune : name => bucket.name }
}

output "image_repository" {
  description = "Where the images of trainer/ are pushed to."
  value       = "${var.region}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.images["trainer"].repository_id}"
}

output "build_service_account" {
  description = "What Cloud Build builds the images as."
  value       = google_service_account.gemtune["build"].id
}

output "service_accounts" {
  description = "The identity of each part."
  value       = { for name, account in google_service_account.gemtune : name => account.email }
}

output "workflow" {
  description = "The workflow, whose executions are those of jobs."
  value       = google_workflows_workflow.fine_tune.id
}

output "settings" {
  description = "What the command line needs in its environment for publish, listen, secret and webhook-key."
  value       = merge(local.every_function, local.launches)
}

output "gateway_url" {
  description = "The API for outside callers with a token of their identity provider; null while it is private."
  value       = one([for gateway in google_api_gateway_gateway.gemtune : "https://${gateway.default_hostname}"])
}
