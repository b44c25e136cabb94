# Roles on the whole project, for resources that have no roles of their own: Firestore's collections, and workflows.
# Roles on a bucket, topic, job, secret or function are in the other access_*.tf.
#
# Functions and jobs need no role for their logs, because they write them to standard output.
locals {
  project_roles = [
    # Creates records, and changes them for cancel and delete.
    { who = "api", role = "roles/datastore.user" },
    # Creates records of requests by message, and records launches.
    { who = "dispatch", role = "roles/datastore.user" },
    # Creates records of requests by file.
    { who = "ingest", role = "roles/datastore.user" },
    # Reads events, and raises published_seq.
    { who = "fan-out", role = "roles/datastore.user" },
    # Records claims, and decides what follows a step.
    { who = "control", role = "roles/datastore.user" },
    # Checks every unfinished job, and relaunches lost ones.
    { who = "sweep", role = "roles/datastore.user" },
    # Record the beginning of steps, progress, heartbeats and results.
    { who = "prepare", role = "roles/datastore.user" },
    { who = "train", role = "roles/datastore.user" },
    { who = "export", role = "roles/datastore.user" },

    # Looks for the execution of a launch, and creates it.
    { who = "dispatch", role = "roles/workflows.invoker" },
    # The same for jobs whose message was lost; also reads states, and ends lost executions.
    { who = "sweep", role = "roles/workflows.invoker" },
    # Ends a cancelled job's execution. The predefined role could also start executions.
    { who = "api", role = local.custom_role["end_executions"] },

    # Shows the output of steps. Cloud Logging has no rights on the log of one job.
    { who = "api", role = local.custom_role["read_logs"] },

    # The connector polls a step's operation and reads the execution; neither has roles of its own.
    { who = "workflow", role = local.custom_role["watch_steps"] },
    # Writes its own call log.
    { who = "workflow", role = "roles/logging.logWriter" },

    # Creates the secrets of jobs. A condition on names does not work for creation, as the secret does not exist yet.
    # All other rights on secrets are restricted by name, in access_secrets.tf.
    { who = "api", role = local.custom_role["make_secrets"] },
    # Looks for secrets that belong to no job. It reads names, not values.
    { who = "sweep", role = local.custom_role["list_secrets"] },

    # Receives events from Eventarc.
    { who = "events", role = "roles/eventarc.eventReceiver" },

    # Writes the log of a build.
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

# Cloud Functions copies sources into a bucket of its own, which does not exist before the first build.
resource "google_project_iam_member" "build_sources" {
  project = var.project_id
  role    = "roles/storage.objectViewer"
  member  = google_service_account.gemtune["build"].member
  condition {
    title      = "sources-of-functions"
    expression = "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-\")"
  }
}

# Roles of a new account can be refused for some minutes ("missing permission on the build service account"). The images
# and the functions are built as this account.
resource "time_sleep" "build_roles" {
  create_duration = "120s"
  depends_on = [
    google_artifact_registry_repository_iam_member.build,
    google_project_iam_member.build_sources,
    google_project_iam_member.gemtune,
    google_storage_bucket_iam_member.gemtune,
  ]
}

# Cloud Storage publishes to a topic that Eventarc creates for a trigger, under a name that is not known here.
resource "google_project_iam_member" "storage_events" {
  project = var.project_id
  role    = "roles/pubsub.publisher"
  member  = data.google_storage_project_service_account.agent.member
}

resource "google_artifact_registry_repository_iam_member" "build" {
  for_each = google_artifact_registry_repository.images

  location   = each.value.location
  repository = each.value.name
  role       = "roles/artifactregistry.writer" # pushes the images
  member     = google_service_account.gemtune["build"].member
}
