# Everything that is optional.
callers          = ["group:team@example.com"]
publishers       = ["serviceAccount:producer@example-project.iam.gserviceaccount.com"]
uploaders        = ["user:me@example.com"]
alert_emails     = ["me@example.com"]
hf_token_secret  = "hub-token"
wandb_key_secret = "wandb-key"
budget           = { billing_account = "012345-6789AB-CDEF01", amount = 100 }
api_gateway = {
  issuer   = "https://issuer.example.com"
  jwks_uri = "https://issuer.example.com/keys"
  audience = "gemtune"
}
status_subscriptions = {
  ends = { members = ["user:me@example.com"], filter = "attributes.status = \"completed\"" }
}
machines = {
  cpu          = { cpus = 8, memory_gib = 32, image = "cpu" }
  l4           = { accelerator = "nvidia-l4", cpus = 8, memory_gib = 32, image = "cu126" }
  rtx-pro-6000 = { accelerator = "nvidia-rtx-pro-6000", cpus = 20, memory_gib = 80, image = "cu130", usd_per_hour = 4.25 }
}
limits = {
  default_max_cost_usd  = 12.5
  default_max_hours     = 10
  max_cost_usd          = 50
  max_hours             = 48
  owner_usd_per_month   = 300
  owner_hours_per_month = 200
}
unsloth                  = true
job_files_in_data_bucket = true
max_instances            = { api = 20 }
