# Roles to publish. Pub/Sub itself pushes messages to functions; roles of listeners are in topics.tf.
locals {
  topic_publishers = [
    # The ID of a job that was accepted over HTTP, so that it is launched.
    { who = "api", topic = "job-requests" },
    # The same for a job that was accepted as a file.
    { who = "ingest", topic = "job-requests" },
    # The same for a job whose message was lost.
    { who = "sweep", topic = "job-requests" },
    # The event job_rejected.
    { who = "dispatch", topic = "job-status" },
    # All events of jobs, and deliveries of their webhooks.
    { who = "fan-out", topic = "job-status" },
    { who = "fan-out", topic = "webhooks" },
    # The same for events that were never published.
    { who = "sweep", topic = "job-status" },
    { who = "sweep", topic = "webhooks" },
  ]
}

resource "google_pubsub_topic_iam_member" "publisher" {
  for_each = { for grant in local.topic_publishers : "${grant.topic} ${grant.who}" => grant }

  topic  = google_pubsub_topic.gemtune[each.value.topic].name
  role   = "roles/pubsub.publisher"
  member = google_service_account.gemtune[each.value.who].member
}

resource "google_pubsub_topic_iam_member" "requests" {
  for_each = toset(var.publishers)

  topic  = google_pubsub_topic.gemtune["job-requests"].name
  role   = "roles/pubsub.publisher"
  member = each.value
}
