"""What operators ask for: is everything well, is every byte there, what does the archive hold."""
