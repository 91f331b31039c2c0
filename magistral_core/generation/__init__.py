"""Generation: chat rendering, the vLLM engines, receiving weights, and the sampler. Imports vLLM only when an engine is made."""
