# Roles that hold for the whole project, because what they are about takes no roles of its own: Firestore has none for a
# collection, Workflows none for a workflow. What can be granted on one bucket, topic, job, secret or function is in
# the other access_*.tf.
#
# Functions and jobs write their logs to stdout, for which they need no role.
locals {
  project_roles = [
    # Records: submit creates them, cancel and delete change them.
    { who = "api", role = "roles/datastore.user" },
    # Records: accepts messages, and takes launches.
    { who = "dispatch", role = "roles/datastore.user" },
    # Records: accepts files.
    { who = "ingest", role = "roles/datastore.user" },
    # Reads events, and raises published_seq.
    { who = "fan-out", role = "roles/datastore.user" },
    # Claims, and verdicts on steps that ended.
    { who = "control", role = "roles/datastore.user" },
    # Looks at every job that is not over, and relaunches.
    { who = "sweep", role = "roles/datastore.user" },
    # Begins of steps, progress, heartbeats, results.
    { who = "trainer", role = "roles/datastore.user" },

    # Looks for the execution of a launch, and creates it.
    { who = "dispatch", role = "roles/workflows.invoker" },
    # The same for jobs whose message got lost; reads states, and ends lost executions.
    { who = "sweep", role = "roles/workflows.invoker" },
    # A cancelled job's execution; the predefined role could start some as well.
    { who = "api", role = local.custom_role["end_executions"] },

    # The connector follows a step's operation to its end, and reads the execution; neither has roles of its own.
    { who = "workflow", role = local.custom_role["watch_steps"] },
    # Its own call log.
    { who = "workflow", role = "roles/logging.logWriter" },

    # Makes the secrets of jobs. A secret that is not there yet has no name to restrict this to; what it may do with
    # secrets is restricted by name in access_secrets.tf.
    { who = "api", role = local.custom_role["make_secrets"] },
    # Looks for secrets that belong to no job: names, no values.
    { who = "sweep", role = local.custom_role["list_secrets"] },

    # Takes part in the delivery of events.
    { who = "events", role = "roles/eventarc.eventReceiver" },

    # The log of a build.
    { who = "build", role = "roles/logging.logWriter" },
  ]
}

resource "google_project_iam_member" "gemtune" {
  for_each = { for grant in local.project_roles : "${grant.who} ${basename(grant.role)}" => grant }

  project    = var.project_id
  role       = each.value.role
  member     = google_service_account.gemtune[each.value.who].member
  depends_on = [google_project_iam_custom_role.gemtune]
}

# Cloud Functions copies what it builds into a bucket of its own, which is not there before the first build.
resource "google_project_iam_member" "build_sources" {
  project = var.project_id
  role    = "roles/storage.objectViewer"
  member  = google_service_account.gemtune["build"].member
  condition {
    title      = "sources-of-functions"
    expression = "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-\")"
  }
}

# Storage publishes to a topic that Eventarc makes for a trigger, under a name that we do not know.
resource "google_project_iam_member" "storage_events" {
  project = var.project_id
  role    = "roles/pubsub.publisher"
  member  = data.google_storage_project_service_account.agent.member
}

resource "google_artifact_registry_repository_iam_member" "build" {
  for_each = google_artifact_registry_repository.images

  location   = each.value.location
  repository = each.value.name
  role       = "roles/artifactregistry.writer" # pushes what it built
  member     = google_service_account.gemtune["build"].member
}
