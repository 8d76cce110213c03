"""How XLA compiles for NVIDIA GPUs. docs/results/speed.md has what an H200 has measured of it."""

COMPILER_OPTIONS = {
  # A step of WRN-40-2 is hundreds of kernels of a few microseconds, about as long as a launch takes. XLA records runs
  # of kernels as one CUDA graph, which is one launch: on an H200 a step of S is 1.1 times as fast as without. Every
  # convolution ends a graph: it would be recorded under CONVOLUTION, which XLA leaves out of its default, since some
  # cannot be, and which no GPU has tried here.
  'xla_gpu_enable_command_buffer': 'FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL',
  # All-reduces, of BN's statistics and of the gradients, run beside the kernels that do not wait for them.
  'xla_gpu_enable_latency_hiding_scheduler': True,
}
