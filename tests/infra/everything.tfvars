# Everything that is optional, each with another value than its default, and lists with more than one member: what ignores
# a variable, or writes a usual value in its place, differs from the tables of wanted values and grants.
region             = "europe-west4"
firestore_location = "eur3"
callers            = ["group:team@example.com", "user:you@example.com"]
publishers = [
  "serviceAccount:producer@example-project.iam.gserviceaccount.com",
  "user:you@example.com",
]
uploaders = ["user:me@example.com", "user:you@example.com"]
# a budget can have five channels
alert_emails     = ["a@example.com", "b@example.com", "c@example.com", "d@example.com", "e@example.com", "f@example.com"]
hf_token_secret  = "hub-token"
wandb_key_secret = "wandb-key"
budget           = { billing_account = "012345-6789AB-CDEF01", amount = 100, currency = "EUR" }
api_gateway = {
  issuer   = "https://issuer.example.com"
  jwks_uri = "https://issuer.example.com/keys"
  audience = "gemtune"
  region   = "europe-west1"
}
status_subscriptions = {
  ends  = { members = ["user:me@example.com", "user:you@example.com"], filter = "attributes.status = \"completed\"" }
  every = { members = ["user:me@example.com"] }
}
machines = {
  cpu          = { cpus = 8, memory_gib = 32, image = "cpu" }
  l4           = { accelerator = "nvidia-l4", cpus = 8, memory_gib = 32, image = "cu126", at_once = 3 }
  rtx-pro-6000 = { accelerator = "nvidia-rtx-pro-6000", cpus = 20, memory_gib = 80, image = "cu130", at_once = 2, usd_per_hour = 4.25 }
}
cpu_steps = {
  prepare = { cpus = 2, memory_gib = 8, usd_per_hour = 0.2 }
  export  = { cpus = 8, memory_gib = 32, usd_per_hour = 0.9 }
}
limits = {
  default_max_cost_usd  = 12.5
  default_max_hours     = 10
  max_cost_usd          = 50
  max_hours             = 48
  owner_usd_per_month   = 300
  owner_hours_per_month = 200
}
timeout_seconds          = { prepare = 1800, train = 43200, export = 7200 }
max_instances            = { api = 20, dispatch = 5, ingest = 6, fan-out = 10, notify = 7, control = 8 }
gpu_hours_per_day        = 48
failed_jobs_per_hour     = 3
checkpoint_days          = 45
model_days               = 90
unsloth                  = true
without_gguf             = true
job_files_in_data_bucket = true
