"""Great Expectations suites over the tables: what must hold before anything expensive runs."""

import os

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # a library must not call home from a user's data pipeline
