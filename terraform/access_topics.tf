# Who publishes where. Subscriptions are pushed by Pub/Sub itself; those of listeners are in topics.tf.
locals {
  topic_publishers = [
    # A request that was accepted over HTTP, for its launch.
    { who = "api", topic = "job-requests" },
    # The same for one that came as a file.
    { who = "ingest", topic = "job-requests" },
    # The same for one whose message got lost.
    { who = "sweep", topic = "job-requests" },
    # job_rejected.
    { who = "dispatch", topic = "job-status" },
    # Every event of a job, and those of its webhook.
    { who = "fan-out", topic = "job-status" },
    { who = "fan-out", topic = "webhooks" },
    # The same for events that nobody heard of.
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
