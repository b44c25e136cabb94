"""Trials of the parity certificate: spoilt, honest and noisy exports."""
