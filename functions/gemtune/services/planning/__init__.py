"""Plans of jobs, with the speed that finished jobs of this deployment had."""
