"""From a checkpoint to a verified artefact: lower, package, verify."""
