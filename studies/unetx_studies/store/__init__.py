"""The only code that opens the database."""
