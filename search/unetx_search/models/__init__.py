"""From a design to a model: full trainings, model folders, predictions."""
