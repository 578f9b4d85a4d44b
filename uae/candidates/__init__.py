"""Which passages the teacher is asked about."""
