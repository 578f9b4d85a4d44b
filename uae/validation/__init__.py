"""Great Expectations suites over the tables: what must hold before anything expensive runs."""
