"""Google Cloud on this machine, for tests: Google's emulators where there are some, stand-ins that speak Google's
protocols where there are none, so that the real clients are used unchanged.

    Firestore, Pub/Sub   the emulators of the Google Cloud SDK
    Cloud Storage        fake-gcs-server
    Secret Manager, Workflows executions, Cloud Run jobs   stand-ins of ours
    Eventarc             the relay, which also mends what the emulators do otherwise than production

`python -m tests.emulators` starts all of it with the functions on top, and says how to reach it.
"""
