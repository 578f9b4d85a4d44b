"""One stage a file: its parameters, what it needs and makes, the code that decides its result, and the call into its room."""
