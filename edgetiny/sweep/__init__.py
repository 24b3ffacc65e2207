"""Shapes of one size trained alike: which of them learns best, and what each runs at."""
