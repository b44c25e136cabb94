"""The parity certificate: an export compared with the trained model."""
