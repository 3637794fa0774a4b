"""Reports of running work to trackio, TensorBoard or Weights & Biases, if they are asked for."""
