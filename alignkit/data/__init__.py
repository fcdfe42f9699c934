"""Rows -> conversations -> trees -> packs."""
