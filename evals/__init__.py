"""Scores of generated video: how good, how sure, and by what protocol."""
