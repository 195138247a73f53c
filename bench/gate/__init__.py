"""Regression gates: one harness measures two trees of `magic141`, in turn, and says whether head may follow base."""
