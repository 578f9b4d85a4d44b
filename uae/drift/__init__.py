"""Drift: whether those who search ask for other things than they did, told from the service's log of queries."""
