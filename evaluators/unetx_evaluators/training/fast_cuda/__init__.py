"""Networks computed faster on CUDA: the same numbers, within float rounding."""

from unetx_evaluators.training.fast_cuda.choice import fast_on_cuda as fast_on_cuda
from unetx_evaluators.training.fast_cuda.choice import norms_run_as as norms_run_as
