"""Parts of a job's record that stand on their own."""
