"""Cloud Storage: signed URLs, and objects composed of others."""
