"""The version of the tiny world."""

#: Part of the cache key of a base model: raise it with every change to problems, traces, tokenizer, model or their constants.
VERSION = 2
