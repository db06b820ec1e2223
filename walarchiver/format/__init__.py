"""Repository format 1 as pure functions over bytes (docs/format.md)."""
