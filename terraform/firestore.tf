# The default database, which clients open without a name.
resource "google_firestore_database" "records" {
  name                              = "(default)"
  location_id                       = coalesce(var.firestore_location, var.region)
  type                              = "FIRESTORE_NATIVE"
  point_in_time_recovery_enablement = "POINT_IN_TIME_RECOVERY_ENABLED"
  delete_protection_state           = var.delete_data ? "DELETE_PROTECTION_DISABLED" : "DELETE_PROTECTION_ENABLED"
  deletion_policy                   = var.delete_data ? "DELETE" : "ABANDON"
  depends_on                        = [google_project_service.enabled]
}

# The file of indexes belongs to the code with the queries; tests read it too.
locals {
  indexes = {
    for index in jsondecode(file("${path.module}/../functions/gemtune/gcp/firestore_indexes.json")).indexes :
    join(" ", concat([index.collection], [for field in index.fields : "${field.field_path} ${lower(field.order)}"])) => index
  }
}

locals {
  # Collection and field; tests compare them with the records and the queries.
  unindexed = [
    "training_jobs created_at", "training_jobs updated_at", "training_jobs started_at", "training_jobs finished_at",
    "training_jobs secrets_renewed_at", "training_jobs launch", "training_jobs steps", "training_jobs progress", "events at", "events details",
  ]
}

resource "google_firestore_index" "query" {
  for_each = local.indexes

  database    = google_firestore_database.records.name
  collection  = each.value.collection
  query_scope = "COLLECTION"

  dynamic "fields" {
    for_each = each.value.fields
    content {
      field_path = fields.value.field_path
      order      = fields.value.order
    }
  }
}

# Events have their time of expiry in a field. An index on it would be a hot spot, and no query needs it. Tombstones are
# deleted by sweep, with their idempotency keys.
resource "google_firestore_field" "event_expiry" {
  database   = google_firestore_database.records.name
  collection = "events"
  field      = "expire_at"

  ttl_config {}
  index_config {}
}

# Fields whose values rise with time, or that no query reads. An index on the former limits writes to 500 per second, and
# an index on the latter costs money. The composite indexes above are not affected.
resource "google_firestore_field" "without_index" {
  for_each = { for name in local.unindexed : name => split(" ", name) }

  database   = google_firestore_database.records.name
  collection = each.value[0]
  field      = each.value[1]

  index_config {}
}
