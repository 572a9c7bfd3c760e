"""Every operator of the design space: ``catalogue`` is data without torch, the other files hold the modules."""
