"""PostgreSQL and S3 servers of our own, for the demo, rehearsals and the tests."""
