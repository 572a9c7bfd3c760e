"""Short training of one network: cases, batches, the step, the loop."""
