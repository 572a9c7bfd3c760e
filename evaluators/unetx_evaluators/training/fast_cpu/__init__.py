"""Networks computed faster on a CPU: the same numbers, within float rounding."""

from unetx_evaluators.training.fast_cpu.exchange import fast_on_cpu as fast_on_cpu
