"""Pages of the reference, one module for each subject."""
