"""What a training script does, from its arguments to its results, a file per task."""
