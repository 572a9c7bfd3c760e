"""What a design is worth: tasks, short-proxy training, metrics."""
