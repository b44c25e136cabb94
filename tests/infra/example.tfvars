project_id = "example-project"
region     = "us-central1"
images = {
  cpu   = "us-central1-docker.pkg.dev/example-project/gemtune-trainer/cpu@sha256:0000000000000000000000000000000000000000000000000000000000000000"
  cu126 = "us-central1-docker.pkg.dev/example-project/gemtune-trainer/cu126@sha256:1111111111111111111111111111111111111111111111111111111111111111"
  cu130 = "us-central1-docker.pkg.dev/example-project/gemtune-trainer/cu130@sha256:2222222222222222222222222222222222222222222222222222222222222222"
}
