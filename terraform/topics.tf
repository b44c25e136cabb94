locals {
  # After this many failed attempts, 10 seconds to 10 minutes apart, a message becomes a dead letter: a request after
  # about three hours, a webhook, whose receiver may be down for a while, after about eight.
  pushed = {
    job-requests = { function = "dispatch", attempts = 20 }
    webhooks     = { function = "notify", attempts = 50 }
  }
  week = "604800s"
}

resource "google_pubsub_topic" "gemtune" {
  for_each = toset(["job-requests", "job-status", "webhooks", "job-requests-dead", "webhooks-dead"])

  name                       = each.value
  message_retention_duration = local.week # so that a subscription can be rewound
  depends_on                 = [google_project_service.enabled]
}

# Not subscriptions of Eventarc, because those cannot have a dead-letter topic.
resource "google_pubsub_subscription" "push" {
  for_each = local.pushed

  name  = "${each.key}-push"
  topic = google_pubsub_topic.gemtune[each.key].id
  # The function's own timeout: a shorter deadline would deliver the message again while it still runs.
  ack_deadline_seconds       = local.functions[each.value.function].timeout_seconds
  message_retention_duration = local.week

  push_config {
    # functions-framework reads the topic from the path.
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

# Subscriptions that keep dead letters; a topic without one would drop them.
resource "google_pubsub_subscription" "dead" {
  for_each = local.pushed

  name                       = "${each.key}-dead"
  topic                      = google_pubsub_topic.gemtune["${each.key}-dead"].id
  message_retention_duration = local.week
  expiration_policy {
    ttl = ""
  }
}

# Pub/Sub's service agent moves dead letters: it publishes them to these topics and acknowledges the originals.
resource "google_pubsub_topic_iam_member" "dead_letters" {
  for_each = local.pushed

  topic      = google_pubsub_topic.gemtune["${each.key}-dead"].name
  role       = "roles/pubsub.publisher"
  member     = local.pubsub_agent
  depends_on = [google_project_service_identity.agent]
}

resource "google_pubsub_subscription_iam_member" "dead_letters" {
  for_each = local.pushed

  subscription = google_pubsub_subscription.push[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
  depends_on   = [google_project_service_identity.agent]
}

# Subscriptions of listeners.
resource "google_pubsub_subscription" "status" {
  for_each = var.status_subscriptions

  name                       = each.key
  topic                      = google_pubsub_topic.gemtune["job-status"].id
  enable_message_ordering    = true # the ordering key is the job, so a job's events arrive in order
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
