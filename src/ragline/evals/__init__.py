"""Evaluating: datasets, runs, baselines, comparisons, and what they say."""
