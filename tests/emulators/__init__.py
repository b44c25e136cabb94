"""Google Cloud on this machine, for tests.

The real Google clients are used unchanged: they talk to Google's emulators where those exist, and otherwise to
stand-ins that speak Google's protocols.

    Firestore, Pub/Sub   the emulators of the Google Cloud SDK
    Cloud Storage        fake-gcs-server
    Secret Manager, Workflows executions, Cloud Run jobs   our own stand-ins
    Eventarc             the relay, which also corrects where the emulators deviate from production

`python -m tests.emulators` starts all of it, serves the functions on top, and prints how to reach them.
"""
