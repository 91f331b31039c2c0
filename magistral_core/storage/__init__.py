"""Objects in S3 (and `file:`), checkpoints that commit last, and which run a command belongs to."""
