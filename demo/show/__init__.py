"""What demo/run does. Only the standard library: it runs on a machine that has nothing else."""
