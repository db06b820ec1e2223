"""The application's versioned bucket: its index, how that is fed, and what it can answer."""
