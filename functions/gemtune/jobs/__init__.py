"""The job: its record, its statuses, its events, and every change it can go through."""
