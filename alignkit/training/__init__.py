"""The loop: startup, order, optimizer, checkpoint."""
