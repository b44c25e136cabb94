# Who reads and writes which objects. `viewer` reads and lists: without the right to list, an object that is not there
# looks like one that may not be seen. `objects`: only those, by a condition on their names.
locals {
  object_roles = {
    viewer  = "roles/storage.objectViewer"
    creator = "roles/storage.objectCreator"
    user    = "roles/storage.objectUser" # all of read, list, create, replace, delete
    remover = local.custom_role["remove_objects"]
  }

  # What accepts requests: api, dispatch and ingest.
  accepting = flatten([
    for who in ["api", "dispatch", "ingest"] : [
      # A spec is created once, read for its message, and deleted when another request has won.
      { bucket = "config", who = who, role = "viewer" },
      { bucket = "config", who = who, role = "creator" },
      { bucket = "config", who = who, role = "remover" },
      # Whether the dataset is there; and, in these three, a base model's config.json.
      { bucket = "data", who = who, role = "viewer" },
      { bucket = "uploads", who = who, role = "viewer" },
      { bucket = "export", who = who, role = "viewer" },
    ]
  ])

  bucket_roles = concat(local.accepting, [
    # DELETE /jobs/{id}. Its viewer role above is also for loss curves and results.
    { bucket = "export", who = "api", role = "remover", objects = "startsWith jobs/" },
    # The answer beside a job file, which replaces an earlier one.
    { bucket = "uploads", who = "ingest", role = "user", objects = "endsWith .accepted.json" },
    { bucket = "uploads", who = "ingest", role = "user", objects = "endsWith .rejected.json" },
    { bucket = "data", who = "ingest", role = "user", objects = "endsWith .accepted.json" },
    { bucket = "data", who = "ingest", role = "user", objects = "endsWith .rejected.json" },
    # Specs: published again, or deleted when they belong to no job.
    { bucket = "config", who = "sweep", role = "viewer" },
    { bucket = "config", who = "sweep", role = "remover" },
    # What the last execution of a deleted job wrote late.
    { bucket = "export", who = "sweep", role = "viewer" },
    { bucket = "export", who = "sweep", role = "remover", objects = "startsWith jobs/" },
    # The steps: the spec, the dataset, a base model, and all that they make.
    { bucket = "config", who = "trainer", role = "viewer" },
    { bucket = "data", who = "trainer", role = "viewer" },
    { bucket = "uploads", who = "trainer", role = "viewer" },
    { bucket = "export", who = "trainer", role = "user" },
    # What it is to build.
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

# People: they bring datasets and job files, and fetch results.
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
