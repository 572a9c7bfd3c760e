"""Faster kernels on CUDA for the instance normalisations of a network; results change within float rounding."""

from unetx_evaluators.training.fast_cuda.choice import fast_on_cuda as fast_on_cuda
from unetx_evaluators.training.fast_cuda.choice import norm_backend as norm_backend
