"""What a run needs around it: set-up, the local stack, an S3 server."""
