"""The job: record, statuses, events, and every change it can go through."""
