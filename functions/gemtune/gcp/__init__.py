"""The ports on Google Cloud.

A client is imported when it is first used, since each costs a third of a second of every cold start: a function loads
what its route needs.
"""
