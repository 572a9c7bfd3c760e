"""Short training of one network: cases, batches, the step, the loop.

The names exported here need no torch; ``trainer.train`` and its parts do, and are imported from their modules.
"""

from unetx_evaluators.training.recipe import Recipe as Recipe
from unetx_evaluators.training.recipe import learning_rate as learning_rate
