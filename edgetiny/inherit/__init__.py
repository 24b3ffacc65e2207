"""A smaller model cut out of a trained one: which layers, which neurons, and the cut itself."""
