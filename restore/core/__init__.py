"""The pure core of the reading side: targets, plans, settings."""
