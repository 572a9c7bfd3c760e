"""The audit of a task: how well short trainings foretell long ones, and how many steps are enough."""
