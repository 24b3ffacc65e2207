"""The whole pipeline on real text, from nothing to a report."""
