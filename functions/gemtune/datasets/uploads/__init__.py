"""Uploaded datasets: their ids, records and parts."""
