"""The parity certificate: an export is loaded again in its own runtime and compared with the trained model."""
