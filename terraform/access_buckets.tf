# Roles on objects. `viewer` includes listing: without it, a missing object looks like a forbidden one. `objects`
# restricts a role by a condition on object names.
locals {
  object_roles = {
    viewer  = "roles/storage.objectViewer"
    creator = "roles/storage.objectCreator"
    user    = "roles/storage.objectUser" # read, list, create, replace and delete
    remover = local.custom_role["remove_objects"]
  }

  # The functions that accept requests.
  accepting = flatten([
    for who in ["api", "dispatch", "ingest"] : [
      # A spec is created once, read when a request trains on from its job, and deleted if a concurrent request was first.
      { bucket = "config", who = who, role = "viewer" },
      { bucket = "config", who = who, role = "creator" },
      { bucket = "config", who = who, role = "remover" },
      # To check that the dataset exists, and to read a base model's config.json, which can be in any of these buckets.
      { bucket = "data", who = who, role = "viewer" },
      { bucket = "uploads", who = who, role = "viewer" },
      { bucket = "export", who = who, role = "viewer" },
    ]
  ])

  # Answers to job files next to a dataset.
  answers_in_data = !var.job_files_in_data_bucket ? [] : [
    { bucket = "data", who = "ingest", role = "user", objects = "endsWith .accepted.json" },
    { bucket = "data", who = "ingest", role = "user", objects = "endsWith .rejected.json" },
  ]

  # The steps read the spec, the dataset and a base model, and write everything else.
  of_steps = flatten([
    for who in ["prepare", "train", "export"] : [
      { bucket = "config", who = who, role = "viewer" },
      { bucket = "data", who = who, role = "viewer" },
      { bucket = "uploads", who = who, role = "viewer" },
      { bucket = "export", who = who, role = "user" },
    ]
  ])

  bucket_roles = concat(local.accepting, local.answers_in_data, local.of_steps, [
    # For DELETE /jobs/{id}. The API also reads loss curves and results, with its role `viewer` above.
    { bucket = "export", who = "api", role = "remover", objects = "startsWith jobs/" },
    # Reports about a dataset, deleted with it.
    { bucket = "export", who = "api", role = "remover", objects = "startsWith checks/" },
    # Uploads of datasets, which the API puts together and deletes.
    { bucket = "data", who = "api", role = "user", objects = "startsWith datasets/" },
    { bucket = "data", who = "api", role = "user", objects = "startsWith processed_datasets/" },
    # The answer to a job file, which is written next to it and replaces an earlier one.
    { bucket = "uploads", who = "ingest", role = "user", objects = "endsWith .accepted.json" },
    { bucket = "uploads", who = "ingest", role = "user", objects = "endsWith .rejected.json" },
    # Specs are published again, or deleted if they belong to no job.
    { bucket = "config", who = "sweep", role = "viewer" },
    { bucket = "config", who = "sweep", role = "remover" },
    # Uploads that were never completed.
    { bucket = "data", who = "sweep", role = "viewer" },
    { bucket = "data", who = "sweep", role = "remover", objects = "startsWith datasets/" },
    # What such an upload has put together already; never the folders that people fill, which have other names.
    { bucket = "data", who = "sweep", role = "remover", objects = "startsWith processed_datasets/dataset_" },
    # To delete what the last execution of a deleted job wrote late.
    { bucket = "export", who = "sweep", role = "viewer" },
    { bucket = "export", who = "sweep", role = "remover", objects = "startsWith jobs/" },
    # Reports about datasets, after a week.
    { bucket = "export", who = "sweep", role = "remover", objects = "startsWith checks/" },
    # The sources to build.
    { bucket = "source", who = "build", role = "viewer" },
  ])
}

resource "google_storage_bucket_iam_member" "gemtune" {
  for_each = {
    for grant in local.bucket_roles :
    join(" ", compact([grant.bucket, grant.who, grant.role, try(grant.objects, null)])) => grant
  }

  bucket = google_storage_bucket.gemtune[each.value.bucket].name
  role   = local.object_roles[each.value.role]
  member = google_service_account.gemtune[each.value.who].member

  dynamic "condition" {
    for_each = try(each.value.objects, null) == null ? [] : [split(" ", each.value.objects)]
    content {
      title = "some-objects"
      expression = (
        condition.value[0] == "startsWith"
        ? "resource.name.startsWith(\"projects/_/buckets/${google_storage_bucket.gemtune[each.value.bucket].name}/objects/${condition.value[1]}\")"
        : "resource.name.endsWith(\"${condition.value[1]}\")"
      )
    }
  }

  depends_on = [google_project_iam_custom_role.gemtune]
}

# People who upload datasets and job files, and download results.
resource "google_storage_bucket_iam_member" "uploader" {
  for_each = merge([
    for member in var.uploaders : {
      for bucket, role in { data = "user", uploads = "user", export = "viewer" } :
      "${bucket} ${member}" => { bucket = bucket, role = role, member = member }
    }
  ]...)

  bucket = google_storage_bucket.gemtune[each.value.bucket].name
  role   = local.object_roles[each.value.role]
  member = each.value.member
}
