"""Ask a Plugsky site one question with the public `openai` package, unchanged.

    python ask.py http://127.0.0.1:8080/v1 smollm2-135m-instruct "Why is the sky blue?"

The API key is read from OPENAI_API_KEY, as the package always does.
"""

import sys
import time

from openai import OpenAI

base_url, model, question = sys.argv[1:4]
client = OpenAI(base_url=base_url)

started = time.perf_counter()
first = None
stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": question}],
    max_tokens=64,
    temperature=0,
    stream=True,
    stream_options={"include_usage": True},
)
for chunk in stream:
    if chunk.choices and chunk.choices[0].delta.content:
        first = first or time.perf_counter() - started
        print(chunk.choices[0].delta.content, end="", flush=True)
    if chunk.usage:
        usage = chunk.usage
print()
if first is None:
    sys.exit("the model gave an empty answer")
print(
    f"[{usage.prompt_tokens} prompt + {usage.completion_tokens} completion tokens, "
    f"first token after {first:.2f} s, done after {time.perf_counter() - started:.2f} s]",
    file=sys.stderr,
)
