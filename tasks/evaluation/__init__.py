"""Scoring checkpoints on benchmarks: questions, answers, grades, and what the numbers come to."""
