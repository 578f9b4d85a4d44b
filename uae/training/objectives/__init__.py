"""What a student learns: pure functions of scores, utilities and masks."""
