"""The OpenAI dialect, at the root with and without ``/v1``. The unmodified ``openai`` package is its test."""
