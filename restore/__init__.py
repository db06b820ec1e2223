"""The reading side of walarchiver: plan a moment, restore it, prove it."""
