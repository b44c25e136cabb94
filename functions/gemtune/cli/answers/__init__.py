"""The command `try`: asks the model of a job on this workstation."""
