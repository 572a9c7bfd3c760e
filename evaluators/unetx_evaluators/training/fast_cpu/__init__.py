"""Faster kernels on CPUs for the slow modules of a network; results change within float rounding."""

from unetx_evaluators.training.fast_cpu.swaps import fast_on_cpu as fast_on_cpu
