"""Small agent programs, as a user would write them: they know OpenAI's client and nothing of the trainer."""

from __future__ import annotations

import json
import threading
import time

from openai import OpenAI

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
                "required": ["a", "b"],
            },
        },
    }
]


def ask(client, messages, **options):
    return client.chat.completions.create(model="policy", messages=messages, **options)


def guesser(base_url, prompt, number, **columns):
    """Guesses until it is right; its history grows as that of a chat does."""
    client = OpenAI(base_url=base_url, api_key="none")
    messages = [{"role": "user", "content": prompt}]
    for turn in range(5):
        reply = ask(client, messages).choices[0].message
        messages.append(reply)
        if reply.content.strip() == str(number):
            return 1.0 - 0.1 * turn
        messages.append({"role": "user", "content": "wrong, again"})
    return {"reward": 0.0, "text": "gave up", "metrics": {"turns": 5}}


def two_chats(base_url, prompt, **columns):
    """A sub-agent with a history of its own, then a summary in a fresh context."""
    client = OpenAI(base_url=base_url, api_key="none")
    plan = ask(client, [{"role": "system", "content": "Plan."}, {"role": "user", "content": prompt}])
    text = plan.choices[0].message.content
    done = ask(client, [{"role": "user", "content": f"Do: {text}"}])
    return float(done.choices[0].message.content == "done")


def with_tools(base_url, prompt, **columns):
    client = OpenAI(base_url=base_url, api_key="none")
    messages = [{"role": "user", "content": prompt}]
    while True:
        choice = ask(client, messages, tools=TOOLS, temperature=0.3).choices[0]
        messages.append(choice.message)
        if choice.finish_reason != "tool_calls":
            return float(choice.message.content == "5")
        for call in choice.message.tool_calls:
            arguments = json.loads(call.function.arguments)
            result = str(arguments["a"] + arguments["b"])
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def streamed(base_url, prompt, **columns):
    client = OpenAI(base_url=base_url, api_key="none")
    messages = [{"role": "user", "content": prompt}]
    text, usage = "", None
    for chunk in ask(client, messages, stream=True, stream_options={"include_usage": True}):
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        usage = chunk.usage or usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 0
    return float(text == "yes")


def at_once(base_url, prompt, **columns):
    client = OpenAI(base_url=base_url, api_key="none")
    texts = []

    def one(number):
        texts.append(ask(client, [{"role": "user", "content": f"{number}"}]).choices[0].message.content)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return float(len(texts))


async def asynchronous(base_url, prompt, **columns):
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=base_url, api_key="none")
    reply = await client.chat.completions.create(
        model="policy", messages=[{"role": "user", "content": prompt}]
    )
    return float(reply.choices[0].message.content == "yes")


def refused(base_url, prompt, option, **columns):
    client = OpenAI(base_url=base_url, api_key="none", max_retries=0)
    ask(client, [{"role": "user", "content": prompt}], **option)
    return 0.0


def loops(base_url, prompt, **columns):
    ask(OpenAI(base_url=base_url, api_key="none"), [{"role": "user", "content": prompt}])
    while True:
        pass


def holds_on(base_url, prompt, **columns):
    """Not even an exception that is thrown into its thread ends it."""
    ask(OpenAI(base_url=base_url, api_key="none"), [{"role": "user", "content": prompt}])
    time.sleep(60)


def silent(base_url, **columns):
    return 1.0


def exits(base_url, prompt, **columns):
    ask(OpenAI(base_url=base_url, api_key="none"), [{"role": "user", "content": prompt}])
    raise SystemExit(3)


def dispatch(base_url, agent, **columns):
    """Another agent of this file, by the task's column."""
    if agent not in globals():
        raise LookupError(f"there is no agent {agent!r}")
    result = globals()[agent](base_url=base_url, **columns)
    if hasattr(result, "__await__"):
        import asyncio

        return asyncio.run(result)
    return result
