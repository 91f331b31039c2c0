"""Training: advantages, loss, collation into packed rows, chunked log-probabilities, the DeepSpeed optimiser step."""
