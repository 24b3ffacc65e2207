"""Training: one loop for CPU and CUDA, whose state can be left and taken up exactly."""
