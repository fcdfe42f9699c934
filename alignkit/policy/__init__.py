"""A model that gives log-probs of scored tokens."""
