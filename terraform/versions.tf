terraform {
  required_version = ">= 1.9"

  required_providers {
    # Written to what 6.50, 7 and 8 have in common.
    google = {
      source  = "hashicorp/google"
      version = ">= 6.50, < 9"
    }
    # Only for API Gateway, which is in no other.
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

# Calls are billed to, and counted against the quotas of, the project itself: the budget's API asks for that.
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
