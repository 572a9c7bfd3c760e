"""Short training of one network: cases, batches, the step, the loop.

What is named here needs no torch; ``trainer.train`` and what it is made of do, and come from their modules.
"""

from unetx_evaluators.training.recipe import Recipe as Recipe
from unetx_evaluators.training.recipe import learning_rate as learning_rate
