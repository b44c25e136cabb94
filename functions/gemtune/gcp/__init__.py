"""The ports on Google Cloud.

Client libraries are imported when they are first used: each adds a third of a second to a cold start, and a function
needs only those of its route.
"""
