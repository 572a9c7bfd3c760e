"""An architecture leaves in other formats."""
