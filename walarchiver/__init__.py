"""walarchiver: PostgreSQL and its S3 bucket, back to any second, together, with proof."""
