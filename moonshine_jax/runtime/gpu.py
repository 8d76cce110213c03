"""How XLA compiles for NVIDIA GPUs. No GPU has measured what these options are worth."""

COMPILER_OPTIONS = {
  # A step of WRN-40-2 is hundreds of kernels of a few microseconds, about as long as a launch takes. XLA records runs
  # of kernels as one CUDA graph, which is one launch, and breaks it at calls of cuDNN unless these are recorded too.
  'xla_gpu_enable_command_buffer': 'FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL',
  # All-reduces, of BN's statistics and of the gradients, run beside the kernels that do not wait for them.
  'xla_gpu_enable_latency_hiding_scheduler': True,
}
