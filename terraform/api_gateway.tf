# Callers without a Google identity: API Gateway verifies their token, calls the API with its own identity, and passes
# the token's claims on in X-Apigateway-Api-Userinfo. It forwards only the paths that are described here.
locals {
  gateways = var.api_gateway == null ? {} : { this = var.api_gateway }

  # [path, method, operation]; tests compare them with those of the API.
  gateway_routes = [
    ["/train", "post", "train"],
    ["/jobs", "get", "list_jobs"],
    ["/jobs/{job_id}/status", "get", "status"],
    ["/jobs/{job_id}/plan", "get", "plan"],
    ["/jobs/{job_id}/request", "get", "request"],
    ["/jobs/{job_id}/events", "get", "events"],
    ["/jobs/{job_id}/metrics", "get", "metrics"],
    ["/jobs/{job_id}/checkpoints", "get", "checkpoints"],
    ["/jobs/{job_id}/logs", "get", "logs"],
    ["/jobs/{job_id}/artifacts", "get", "artifacts"],
    ["/jobs/{job_id}/exports", "post", "exports"],
    ["/jobs/{job_id}/pause", "post", "pause"],
    ["/jobs/{job_id}/resume", "post", "resume"],
    ["/jobs/{job_id}/cancel", "post", "cancel"],
    ["/jobs/{job_id}", "delete", "delete"],
    ["/datasets", "post", "upload_dataset"],
    ["/datasets", "get", "list_datasets"],
    ["/datasets/file", "post", "upload_file"],
    ["/datasets/{dataset_id}", "get", "show_dataset"],
    ["/datasets/{dataset_id}", "delete", "delete_dataset"],
    ["/datasets/{dataset_id}/parts", "put", "upload_part"],
    ["/datasets/{dataset_id}/part-links", "post", "part_links"],
    ["/datasets/{dataset_id}/complete", "post", "complete_dataset"],
    ["/datasets/{dataset_id}/files", "get", "dataset_files"],
    ["/models", "get", "models"],
    ["/datasets/{dataset_id}/rows", "get", "dataset_rows"],
    ["/datasets/{dataset_id}/check", "post", "begin_check"],
    ["/datasets/{dataset_id}/checks/{check_id}", "get", "show_check"],
    ["/account", "get", "account"],
    ["/health", "get", "health"],
    ["/openapi.json", "get", "openapi"],
  ]

  gateway_openapi = {
    for name, gateway in local.gateways : name => jsonencode({
      swagger  = "2.0"
      info     = { title = "gemtune", version = "1" }
      schemes  = ["https"]
      produces = ["application/json"]
      "x-google-backend" = {
        address          = google_cloudfunctions2_function.gemtune["api"].service_config[0].uri
        path_translation = "APPEND_PATH_TO_ADDRESS"
        deadline         = local.functions["api"].timeout_seconds
      }
      securityDefinitions = {
        caller = {
          type                 = "oauth2"
          flow                 = "implicit"
          authorizationUrl     = ""
          "x-google-issuer"    = gateway.issuer
          "x-google-jwks_uri"  = gateway.jwks_uri
          "x-google-audiences" = gateway.audience
        }
      }
      security = [{ caller = [] }]
      paths = {
        for path in distinct([for route in local.gateway_routes : route[0]]) : path => {
          for route in local.gateway_routes : route[1] => {
            operationId = route[2]
            parameters = [
              for name in ["job_id", "dataset_id", "check_id"] : { name = name, in = "path", required = true, type = "string" }
              if strcontains(path, "{${name}}")
            ]
            responses = { "200" = { description = "see GET /openapi.json" } }
          } if route[0] == path
        }
      }
    })
  }
}

resource "google_api_gateway_api" "gemtune" {
  for_each = local.gateways
  provider = google-beta

  api_id     = "gemtune"
  depends_on = [google_project_service.enabled]
}

resource "google_api_gateway_api_config" "gemtune" {
  for_each = local.gateways
  provider = google-beta

  api                  = google_api_gateway_api.gemtune[each.key].api_id
  api_config_id_prefix = "gemtune-"

  openapi_documents {
    document {
      path     = "openapi.json"
      contents = base64encode(local.gateway_openapi[each.key])
    }
  }
  gateway_config {
    backend_config {
      google_service_account = google_service_account.gemtune["gateway"].email
    }
  }

  # A configuration cannot be changed, and cannot be deleted while it is in use.
  lifecycle {
    create_before_destroy = true
  }
}

resource "google_api_gateway_gateway" "gemtune" {
  for_each = local.gateways
  provider = google-beta

  api_config = google_api_gateway_api_config.gemtune[each.key].id
  gateway_id = "gemtune"
  region     = coalesce(each.value.region, var.region)
}
