locals {
  # A message that its function refuses this often, with pauses from 10 seconds to 10 minutes, becomes a dead letter:
  # a request after some three hours, a webhook, whose receiver may be away, after some eight.
  pushed = {
    job-requests = { function = "dispatch", attempts = 20 }
    webhooks     = { function = "notify", attempts = 50 }
  }
  week = "604800s"
}

resource "google_pubsub_topic" "gemtune" {
  for_each = toset(["job-requests", "job-status", "webhooks", "job-requests-dead", "webhooks-dead"])

  name                       = each.value
  message_retention_duration = local.week # so that a subscription can be set back
  depends_on                 = [google_project_service.enabled]
}

# Ours and not Eventarc's, so that it can have a dead-letter topic.
resource "google_pubsub_subscription" "push" {
  for_each = local.pushed

  name  = "${each.key}-push"
  topic = google_pubsub_topic.gemtune[each.key].id
  # As long as the function may take: an earlier repetition would run beside it.
  ack_deadline_seconds       = local.functions[each.value.function].timeout_seconds
  message_retention_duration = local.week

  push_config {
    # The path tells functions-framework the topic; without it, it has to guess.
    push_endpoint = "${google_cloudfunctions2_function.gemtune[each.value.function].service_config[0].uri}/projects/${var.project_id}/topics/${each.key}"
    oidc_token {
      service_account_email = google_service_account.gemtune["push"].email
      audience              = google_cloudfunctions2_function.gemtune[each.value.function].service_config[0].uri
    }
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.gemtune["${each.key}-dead"].id
    max_delivery_attempts = each.value.attempts
  }

  expiration_policy {
    ttl = "" # never
  }

  depends_on = [google_cloud_run_v2_service_iam_member.invoker]
}

# Keeps dead letters, which a topic alone does not.
resource "google_pubsub_subscription" "dead" {
  for_each = local.pushed

  name                       = "${each.key}-dead"
  topic                      = google_pubsub_topic.gemtune["${each.key}-dead"].id
  message_retention_duration = local.week
  expiration_policy {
    ttl = ""
  }
}

# Pub/Sub itself moves dead letters: it publishes them here, and acknowledges them there.
resource "google_pubsub_topic_iam_member" "dead_letters" {
  for_each = local.pushed

  topic  = google_pubsub_topic.gemtune["${each.key}-dead"].name
  role   = "roles/pubsub.publisher"
  member = local.pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "dead_letters" {
  for_each = local.pushed

  subscription = google_pubsub_subscription.push[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}

# Listeners.
resource "google_pubsub_subscription" "status" {
  for_each = var.status_subscriptions

  name                       = each.key
  topic                      = google_pubsub_topic.gemtune["job-status"].id
  enable_message_ordering    = true # the events of one job, by their ordering key
  filter                     = each.value.filter
  ack_deadline_seconds       = 60
  message_retention_duration = local.week
  expiration_policy {
    ttl = ""
  }
}

resource "google_pubsub_subscription_iam_member" "listener" {
  for_each = merge([
    for name, subscription in var.status_subscriptions : { for member in subscription.members : "${name} ${member}" => { name = name, member = member } }
  ]...)

  subscription = google_pubsub_subscription.status[each.value.name].name
  role         = "roles/pubsub.subscriber"
  member       = each.value.member
}
