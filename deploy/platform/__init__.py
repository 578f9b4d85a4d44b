"""The whole platform on one machine: its servers' settings, what sets them up, and the supervisor's list of them."""
