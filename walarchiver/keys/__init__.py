"""Custodians: who can open what the archiver seals."""
