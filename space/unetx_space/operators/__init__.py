"""Every operator of the design space."""
