"""How XLA compiles for NVIDIA GPUs. docs/results/speed.md has what an H200 has measured of it."""

import os

# Kernels are loaded as CUDA starts, not each at its first launch: the first launch may be into a CUDA graph that is
# being recorded, where on an H200 kernels of cuDNN could not be loaded (its status 5003). CUDA reads this once, at its
# start. What the user has set holds.
os.environ.setdefault('CUDA_MODULE_LOADING', 'EAGER')

# A step of WRN-40-2 is hundreds of kernels of a few microseconds, about as long as a launch takes. XLA records runs of
# kernels as one CUDA graph, which is one launch.
RECORDED = 'xla_gpu_enable_command_buffer'
_WITHOUT_CONVOLUTIONS = 'FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL'

COMPILER_OPTIONS = {
  RECORDED: _WITHOUT_CONVOLUTIONS,
  # All-reduces, of BN's statistics and of the gradients, run beside the kernels that do not wait for them.
  'xla_gpu_enable_latency_hiding_scheduler': True,
}

# Of a loop over train steps. XLA's default leaves convolutions out, which then end a graph. With them a step is one
# graph, and kernels that do not wait for each other, as those of the two gradients of a convolution, run at the same
# time: on an H200 steps of S are 1.24 times as fast as with COMPILER_OPTIONS, those of G(N/8) 1.76 times.
LOOP_OPTIONS = COMPILER_OPTIONS | {
  RECORDED: _WITHOUT_CONVOLUTIONS + ',CONVOLUTION',
  'xla_gpu_command_buffer_scheduling_mode': 'CONCURRENT',
}


def advice_for(error: BaseException) -> str | None:
  """Returns in a line what to do about an error of cuDNN, which may be that it cannot be recorded; else None."""
  first_line = str(error).splitlines()[0] if str(error) else ''
  if 'cudnn status' not in first_line.lower():
    return None
  return (
    f'{first_line}: cuDNN cannot run a convolution, perhaps since CUDA graphs record it: try '
    f'XLA_FLAGS=--{RECORDED}={_WITHOUT_CONVOLUTIONS} with the same command; a run goes on from what it saved'
  )
