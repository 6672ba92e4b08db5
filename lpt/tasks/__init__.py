"""What is learned: a task turns batches into a loss and metrics, and knows nothing of quantization."""
