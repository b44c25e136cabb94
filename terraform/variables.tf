variable "project_id" {
  description = "ID of the project to deploy to. One project can have one gemtune."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "A project ID has 6 to 30 lower-case letters, digits and dashes, and begins with a letter."
  }
}

variable "region" {
  description = "Region of all resources. It must have the GPUs of `machines`, and Cloud Build must be open to the project there."
  type        = string
  default     = "europe-west1"
  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "A region looks like us-central1 or europe-west4. Zones (us-central1-a) and continents are not regions."
  }
}

variable "firestore_location" {
  description = "Location of the records: a region, nam5 or eur3. It cannot be changed later. Null: `region`."
  type        = string
  default     = null
  validation {
    condition     = var.firestore_location == null || can(regex("^(nam5|eur3|[a-z]+-[a-z]+[0-9]+)$", var.firestore_location))
    error_message = "Firestore's location is a region, nam5 or eur3."
  }
}

variable "images" {
  description = "Container images of trainer/, by digest: `cpu` for prepare and export, and those that `machines` names."
  type        = map(string)
  validation {
    condition     = alltrue([for image in values(var.images) : can(regex("^[a-z0-9.-]+/[a-z0-9._/-]+@sha256:[0-9a-f]{64}$", image))])
    error_message = "Name an image by its digest, REGISTRY/PATH@sha256:…, because a tag can change its meaning."
  }
  validation {
    condition     = contains(keys(var.images), "cpu")
    error_message = "The image `cpu` is missing; prepare and export need it."
  }
}

variable "without_gguf" {
  description = "Whether the images were built without llama.cpp. If so, requests for the format gguf are refused."
  type        = bool
  default     = false
}

variable "unsloth" {
  description = "Whether the images were built with the provider unsloth (`make deploy UNSLOTH=yes`). If not, requests for it are refused."
  type        = bool
  default     = false
}

variable "machines" {
  description = <<-EOT
    Machines for training, by name. Each becomes the Cloud Run job gemtune-train-NAME. Names and sizes are those of
    functions/gemtune/machines/choice.py, which chooses one for each job. `image` is a key of `images`: the build
    for a version of CUDA that the machine's driver supports. A machine without `accelerator` trains on CPUs. `at_once`
    is how many jobs train on such machines at the same time; further ones wait. It should not exceed the quota.
    `usd_per_hour` is the machine's price, where the price list of functions/gemtune/machines has another or none: it has
    GPUs in us-central1 only.
  EOT
  type = map(object({
    accelerator  = optional(string)
    cpus         = number
    memory_gib   = number
    image        = optional(string, "cpu")
    at_once      = optional(number, 1)
    usd_per_hour = optional(number)
  }))
  default = {
    l4 = { accelerator = "nvidia-l4", cpus = 8, memory_gib = 32, image = "cu126" }
  }
  validation {
    condition     = length(var.machines) > 0 && alltrue([for name in keys(var.machines) : can(regex("^[a-z][a-z0-9-]{0,30}$", name))])
    error_message = "At least one machine is needed. Its name becomes part of a Cloud Run job's name: use lower-case letters, digits and dashes."
  }
  validation {
    condition     = alltrue([for machine in values(var.machines) : machine.at_once >= 1 && machine.at_once == floor(machine.at_once)])
    error_message = "`at_once` of a machine is a whole number, at least 1."
  }
  validation {
    condition     = alltrue([for machine in values(var.machines) : try(machine.usd_per_hour >= 0, machine.usd_per_hour == null)])
    error_message = "`usd_per_hour` of a machine is a price, at least 0."
  }
  validation {
    condition     = alltrue([for machine in values(var.machines) : contains(keys(var.images), machine.image)])
    error_message = "A machine names an image that `images` does not have."
  }
  validation {
    condition = alltrue([
      for machine in values(var.machines) :
      machine.accelerator == null ? contains([1, 2, 4, 6, 8], machine.cpus) && machine.memory_gib <= machine.cpus * 4
      : machine.accelerator == "nvidia-l4" ? machine.cpus >= 4 && machine.cpus <= 8 && machine.memory_gib >= 16 && machine.memory_gib <= 32
      : machine.accelerator == "nvidia-rtx-pro-6000" ? machine.cpus >= 20 && machine.memory_gib >= 80
      : false
    ])
    error_message = "Cloud Run has no such machine. It offers 1, 2, 4, 6 or 8 CPUs with at most 4 GiB each; an nvidia-l4 with 4 to 8 CPUs and 16 to 32 GiB; an nvidia-rtx-pro-6000 with at least 20 CPUs and 80 GiB."
  }
}

variable "cpu_steps" {
  description = "Machines of prepare and export. Files on Cloud Run take memory, and export writes whole GGUF files. `usd_per_hour` as in `machines`."
  type = map(object({
    cpus         = number
    memory_gib   = number
    usd_per_hour = optional(number)
  }))
  default = {
    prepare = { cpus = 4, memory_gib = 16 }
    export  = { cpus = 8, memory_gib = 32 }
  }
  validation {
    condition     = toset(keys(var.cpu_steps)) == toset(["prepare", "export"])
    error_message = "Set both steps that run on a CPU, prepare and export, and no others."
  }
  validation {
    condition     = alltrue([for step in values(var.cpu_steps) : try(step.usd_per_hour >= 0, step.usd_per_hour == null)])
    error_message = "`usd_per_hour` of a step is a price, at least 0."
  }
  validation {
    condition     = alltrue([for step in values(var.cpu_steps) : contains([1, 2, 4, 6, 8], step.cpus) && step.memory_gib <= step.cpus * 4])
    error_message = "Cloud Run offers 1, 2, 4, 6 or 8 CPUs, with at most 4 GiB per CPU, so at most 32 GiB."
  }
}

variable "max_instances" {
  description = "Most instances of a function, of one CPU each, in place of the defaults in functions.tf, which suit a new project's quota. Without `sweep`, of which there is always one."
  type        = map(number)
  default     = {}
  validation {
    condition     = alltrue([for name in keys(var.max_instances) : contains(["api", "dispatch", "ingest", "fan-out", "notify", "control"], name)])
    error_message = "The functions are api, dispatch, ingest, fan-out, notify and control."
  }
  validation {
    condition     = alltrue([for count in values(var.max_instances) : count >= 1 && count <= 1000 && floor(count) == count])
    error_message = "Use whole numbers from 1 to 1000."
  }
}

variable "timeout_seconds" {
  description = "Time limit of one execution of a step, in seconds. A training that takes longer stops at a checkpoint and continues in another execution."
  type = object({
    prepare = optional(number, 3600)
    train   = optional(number, 3600)
    export  = optional(number, 3600)
  })
  default = {}
  validation {
    condition     = alltrue([for seconds in values(var.timeout_seconds) : seconds >= 300 && seconds <= 604800 && floor(seconds) == seconds])
    error_message = "A timeout is a whole number of seconds, from 300 to 604800 (a week)."
  }
  validation {
    condition     = var.timeout_seconds.train <= 43200 || alltrue([for machine in values(var.machines) : machine.accelerator == null])
    error_message = "A training with a GPU can take at most 12 hours, and only an hour unless Google has enabled more."
  }
  validation {
    # Large models are exported on the machines for training, see run_jobs.tf.
    condition = var.timeout_seconds.export <= 43200 || alltrue([
      for machine in values(var.machines) : machine.accelerator == null || machine.memory_gib <= var.cpu_steps.export.memory_gib
    ])
    error_message = "An export on a machine with a GPU can take at most 12 hours, and only an hour unless Google has enabled more."
  }
}

variable "callers" {
  description = "IAM members that may call the API, such as user:me@example.com or group:team@example.com. The API must not be public, because it trusts identity tokens that IAM has verified."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for member in var.callers : can(regex("^(user|group|serviceAccount|domain|principal|principalSet):.+$", member))])
    error_message = "Name users, groups, service accounts or domains. allUsers and allAuthenticatedUsers would make the API public."
  }
}

variable "publishers" {
  description = "IAM members that may publish requests to job-requests."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for member in var.publishers : can(regex("^(user|group|serviceAccount|domain|principal|principalSet):.+$", member))])
    error_message = "Name users, groups, service accounts or domains."
  }
}

variable "uploaders" {
  description = "IAM members that may upload datasets and job files, and read results."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for member in var.uploaders : can(regex("^(user|group|serviceAccount|domain|principal|principalSet):.+$", member))])
    error_message = "Name users, groups, service accounts or domains."
  }
}

variable "status_subscriptions" {
  description = <<-EOT
    Subscriptions to job-status, by name. Each one delivers a job's events in order. `members` are the IAM members that
    may read it; `filter` is a filter of Pub/Sub, such as attributes.status = "completed" (null: all events).
  EOT
  type = map(object({
    members = list(string)
    filter  = optional(string)
  }))
  default = {}
  validation {
    condition     = alltrue([for name in keys(var.status_subscriptions) : can(regex("^[a-z][a-z0-9-]{2,60}$", name)) && !startswith(name, "goog")])
    error_message = "A subscription's name has 3 to 61 lower-case letters, digits and dashes, and does not begin with goog."
  }
}

variable "hf_token_secret" {
  description = "Name of a secret with the Hugging Face token for jobs without one; null: there is none. Create the secret by hand, so that no state file contains its value."
  type        = string
  default     = null
  validation {
    condition     = var.hf_token_secret == null || can(regex("^[A-Za-z0-9_-]{1,255}$", var.hf_token_secret))
    error_message = "This is the secret's name, not its value: letters, digits, _ and -."
  }
  validation {
    condition     = var.hf_token_secret == null || !can(regex("^hf_[A-Za-z0-9]{6,}$", var.hf_token_secret))
    error_message = "This looks like a token. Store it as a secret, and give the secret's name."
  }
}

variable "wandb_key_secret" {
  description = "Name of a secret with the W&B key for jobs without one; null: such jobs are refused. Create the secret by hand, so that no state file contains its value."
  type        = string
  default     = null
  validation {
    condition     = var.wandb_key_secret == null || can(regex("^[A-Za-z0-9_-]{1,255}$", var.wandb_key_secret))
    error_message = "This is the secret's name, not its value: letters, digits, _ and -."
  }
  validation {
    condition     = var.wandb_key_secret == null || !can(regex("^([0-9a-f]{40}|wandb_\\w{16,})$", var.wandb_key_secret))
    error_message = "This looks like a key. Store it as a secret, and give the secret's name."
  }
}

variable "api_gateway" {
  description = "Opens the API to callers without a Google identity, through API Gateway, which verifies their JSON Web Tokens; null: no gateway. `region`: the gateway's region, if API Gateway is not available in the service's own."
  type = object({
    issuer   = string
    jwks_uri = string
    audience = string
    region   = optional(string)
  })
  default = null
  validation {
    condition     = var.api_gateway == null || can(regex("^https://", var.api_gateway.issuer)) && can(regex("^https://", var.api_gateway.jwks_uri)) && try(length(var.api_gateway.audience) > 0, false)
    error_message = "issuer and jwks_uri are https URLs of the identity provider; audience is what it puts into tokens for this service."
  }
}

variable "alert_emails" {
  description = "Email addresses that are notified of dead letters, failed and stuck jobs, too many GPU hours and the budget."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for address in var.alert_emails : can(regex("^[^@ ]+@[^@ ]+$", address))])
    error_message = "These are email addresses."
  }
}

variable "gpu_hours_per_day" {
  description = "More GPU hours than this within 24 hours raise an alert."
  type        = number
  default     = 24
  validation {
    condition     = var.gpu_hours_per_day > 0
    error_message = "Use a number above 0."
  }
}

variable "failed_jobs_per_hour" {
  description = "More failed jobs within an hour than this raise an alert."
  type        = number
  default     = 0
  validation {
    condition     = var.failed_jobs_per_hour >= 0
    error_message = "Use 0 or more."
  }
}

variable "budget" {
  description = "Monthly budget of the project, which warns at 50%, at 90%, at 100%, and when a forecast exceeds it; null: no budget. It stops nothing."
  type = object({
    billing_account = string
    amount          = number
    currency        = optional(string, "USD")
  })
  default = null
  validation {
    condition     = var.budget == null || can(regex("^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", var.budget.billing_account)) && try(var.budget.amount > 0 && floor(var.budget.amount) == var.budget.amount, false)
    error_message = "billing_account looks like 012345-6789AB-CDEF01 (gcloud billing accounts list); amount is a whole number above 0."
  }
}

variable "limits" {
  description = <<-EOT
    Limits of what jobs take; null: none. A job that reaches its cap is paused at a checkpoint. `default_max_cost_usd`
    and `default_max_hours` are the caps of jobs whose request has none, `max_cost_usd` and `max_hours` the highest that
    a request may have. `owner_usd_per_month` and `owner_hours_per_month` are what all jobs of one caller may take in a
    calendar month; then new jobs are refused, and others are paused. With a limit in USD, jobs on a machine whose price
    is not known are refused: state `usd_per_hour` of `machines` outside us-central1.
  EOT
  type = object({
    default_max_cost_usd  = optional(number)
    default_max_hours     = optional(number)
    max_cost_usd          = optional(number)
    max_hours             = optional(number)
    owner_usd_per_month   = optional(number)
    owner_hours_per_month = optional(number)
  })
  default = {}
  validation {
    condition     = alltrue([for limit in values(var.limits) : try(limit > 0, limit == null)])
    error_message = "A limit is a number above 0."
  }
}

variable "checkpoint_days" {
  description = "Days after which the optimizer's state of a checkpoint is deleted, which is most of it. The trainer itself deletes all but the newest and the best checkpoints."
  type        = number
  default     = 30
  validation {
    condition     = var.checkpoint_days >= 14
    error_message = "Use at least 14 days: a running job must find its checkpoint."
  }
}

variable "model_days" {
  description = "Days after which a base model from the Hub is deleted from the export bucket, if no job has used it since. The next job copies it again."
  type        = number
  default     = 60
  validation {
    condition     = var.model_days >= 14
    error_message = "Use at least 14 days: a running job must find its base model."
  }
}

variable "job_files_in_data_bucket" {
  description = "Whether job files may also lie next to their dataset, in the data bucket. If so, a function is called for every object there, and so for every picture of a dataset."
  type        = bool
  default     = false
}

variable "delete_data" {
  description = "Whether `terraform destroy` may delete the buckets with their objects, and the records."
  type        = bool
  default     = false
}
