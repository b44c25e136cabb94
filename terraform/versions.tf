terraform {
  required_version = ">= 1.9"

  required_providers {
    # .terraform.lock.hcl pins the oldest of these, with the checksums for all platforms. The tests have the schemas of
    # that one and of 8.7.0.
    google = {
      source  = "hashicorp/google"
      version = ">= 6.50.0, < 9.0.0"
    }
    # Only for API Gateway and service identities, which the other provider lacks.
    google-beta = {
      source  = "hashicorp/google-beta"
      version = ">= 6.50.0, < 9.0.0"
    }
    archive = {
      source  = "hashicorp/archive"
      version = "~> 2.7.1"
    }
    time = {
      source  = "hashicorp/time"
      version = "~> 0.13.1"
    }
  }

  # `make deploy` says where the state is: in build/PROJECT_ID/, or in the bucket STATE_BUCKET.
  backend "local" {}
}

# Calls are billed to the project itself and count against its quotas. The budget API requires this.
provider "google" {
  project               = var.project_id
  region                = var.region
  billing_project       = var.project_id
  user_project_override = true
}

provider "google-beta" {
  project               = var.project_id
  region                = var.region
  billing_project       = var.project_id
  user_project_override = true
}
