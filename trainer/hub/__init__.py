"""Upload of an export to the Hugging Face Hub."""
