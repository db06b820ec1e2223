"""The hook, the socket and the server edge."""
