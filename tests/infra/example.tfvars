project_id = "example-project"
images = {
  cpu = "us-central1-docker.pkg.dev/example-project/gemtune-trainer/trainer@sha256:0000000000000000000000000000000000000000000000000000000000000000"
  gpu = "us-central1-docker.pkg.dev/example-project/gemtune-trainer/trainer@sha256:1111111111111111111111111111111111111111111111111111111111111111"
}
