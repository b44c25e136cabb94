terraform {
  required_version = ">= 1.9"

  required_providers {
    # Only features that 6.50, 7 and 8 have in common are used.
    google = {
      source  = "hashicorp/google"
      version = ">= 6.50, < 9"
    }
    # Only for API Gateway, which the other provider lacks.
    google-beta = {
      source  = "hashicorp/google-beta"
      version = ">= 6.50, < 9"
    }
    archive = {
      source  = "hashicorp/archive"
      version = ">= 2.7, < 3"
    }
  }
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
