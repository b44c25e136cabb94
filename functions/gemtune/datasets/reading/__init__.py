"""Reading of rows field by field, so that no field gets lost."""
