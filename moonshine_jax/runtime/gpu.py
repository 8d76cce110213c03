"""How XLA compiles for NVIDIA GPUs. docs/results/speed.md has what an H200 has measured of it."""

import os
import re

# A step of WRN-40-2 is hundreds of kernels of a few microseconds, about as long as a launch takes. XLA records runs of
# kernels as one CUDA graph, which is one launch.
RECORDED = 'xla_gpu_enable_command_buffer'
_WITHOUT_CONVOLUTIONS = 'FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL'

COMPILER_OPTIONS = {
  RECORDED: _WITHOUT_CONVOLUTIONS,
  # All-reduces, of BN's statistics and of the gradients, run beside the kernels that do not wait for them.
  'xla_gpu_enable_latency_hiding_scheduler': True,
}

# Of a loop over train steps. XLA's default leaves convolutions out, which then end a graph. With them in, graphs are
# longer, and kernels that do not wait for each other, as those of a convolution's two gradients, may run at the same
# time: on an H200 a step of S is 1.24 times as fast as with COMPILER_OPTIONS.
LOOP_OPTIONS = COMPILER_OPTIONS | {
  RECORDED: _WITHOUT_CONVOLUTIONS + ',CONVOLUTION',
  'xla_gpu_command_buffer_scheduling_mode': 'CONCURRENT',
}


def advice_for(error: BaseException) -> str | None:
  """Returns in a line what to try after an error of cuDNN, which CUDA graphs may have caused; None after another."""
  if not re.search('cudnn[ _]status', str(error), re.IGNORECASE) or RECORDED in os.environ.get('XLA_FLAGS', ''):
    return None
  return (
    f'cuDNN failed, perhaps since a CUDA graph records it: try the same command with XLA_FLAGS=--{RECORDED}= , which '
    'leaves graphs out; a run goes on from what it saved'
  )
