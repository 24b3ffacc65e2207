"""What a model would miss: layers that are skipped, neurons that are scored."""
