"""`walarchiver demo`: the whole story on embedded parts, ending in a proof."""
