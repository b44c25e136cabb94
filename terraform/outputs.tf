# `make deploy` compares these two with its own variables, so that a state is never applied to another project.
output "project_id" {
  description = "Project of this state."
  value       = var.project_id
}

output "region" {
  description = "Region of this state."
  value       = var.region
}

# Known before the first apply: `make deploy` compares it with the project's quotas, and builds only these images.
output "capacity" {
  description = "CPUs, memory and GPUs of one execution of each Cloud Run job, and of all instances of each function."
  value = {
    jobs      = { for name, step in local.steps : "gemtune-${name}" => { cpus = step.cpus, memory_gib = step.memory_gib, accelerator = step.accelerator, image = step.image } }
    functions = { for name, function in local.functions : "gemtune-${name}" => { instances = function.instances, memory = function.memory } }
  }
}

output "api_url" {
  description = "URL of the API, for `callers` with an identity token whose audience is this URL."
  value       = google_cloudfunctions2_function.gemtune["api"].service_config[0].uri
}

output "topics" {
  description = "Full names of the topics: publish requests to job-requests, listen to job-status; those with -dead keep undeliverable messages."
  value       = { for name, topic in google_pubsub_topic.gemtune : name => topic.id }
}

output "buckets" {
  description = "Names of the buckets. config: specs; data: datasets; uploads: job files; export: results; source: sources of functions and images."
  value       = { for name, bucket in google_storage_bucket.gemtune : name => bucket.name }
}

output "image_repository" {
  description = "Registry to which the images of trainer/ are pushed."
  value       = "${var.region}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.images["trainer"].repository_id}"
}

output "build_service_account" {
  description = "Service account with which Cloud Build builds the images."
  value       = google_service_account.gemtune["build"].id
}

output "service_accounts" {
  description = "Service account of each part."
  value       = { for name, account in google_service_account.gemtune : name => account.email }
}

output "workflow" {
  description = "The workflow, which runs once per launch of a job."
  value       = google_workflows_workflow.fine_tune.id
}

output "settings" {
  description = "Environment variables that the command line needs for publish, listen, secret and webhook-key."
  value       = merge(local.every_function, local.launches)
}

output "gateway_url" {
  description = "URL of the API for callers with a token of `api_gateway`'s identity provider; null without API Gateway."
  value       = one([for gateway in google_api_gateway_gateway.gemtune : "https://${gateway.default_hostname}"])
}
