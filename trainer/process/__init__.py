"""The process of a step: start-up, child processes, heartbeat, threads."""
