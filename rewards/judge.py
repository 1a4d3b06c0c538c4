"""A language model behind an OpenAI-compatible endpoint as the reward.

The verdict is the last match of an expression, or a key of the last JSON object, in the judge's
reply. A reply without one is `unscorable`, never 0; so is a judge that cannot be reached. What
stands before `</think>` is not sent, and an answer that is empty without it is 0.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import tempfile
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx

from rewards.thoughts import after_thoughts
from rlcore import Message, Verdict, reward

TEMPLATES = Path(__file__).parent / "templates"
"""Prompts that a recipe may name: `answer.txt`, `segment.txt`."""
VERDICT = (
    r"(?im)^\W*verdict\b(?:\W*?([-\u2212]?(?:\d+(?:\.\d+)?|\.\d+)|yes|no|correct|incorrect)\b"
    r"(?![,.\u2013-]\d|[ \t]*/[ \t]*\d|[ \t]+(?:or|and|to|out of)[ \t]+(?:\d|yes|no|in))"
    r"|\W{0,3}[:=].*)"
)
"""The last line with a verdict decides; one that hedges, `1 or 0`, or is no score, `1/10`, gives none."""
_WORDS = {"yes": 1.0, "correct": 1.0, "true": 1.0, "no": 0.0, "incorrect": 0.0, "false": 0.0}
_WORTH_RETRYING = {408, 409, 425, 429, 500, 502, 503, 504}
_LONGEST_PAUSE_S = 30.0


@reward
class Judge:
    """1 if a judge model finds that the completion agrees with the reference answer, else 0.

    model, url: as the endpoint names it, and where `/chat/completions` is: `http://localhost:8000/v1`, OpenAI's by default.
    api_key_env: the environment variable that holds the key; a local server needs none.
    template: the judge's prompt, the path of a `.txt` file with it, or the name of one that rlcore has: `answer`, or `segment`,
    the prefix reward of RLPT (arXiv 2509.19249) for tasks of the corpus form `segments`. `{prompt}`, `{completion}`, `{answer}` and
    any column are filled in; `{fence}` is a mark that the judged completion cannot guess.
    verdict: an expression whose one group is the score. json_key: read that key of the reply's last JSON object instead.
    lowest, highest: the judge's scale, mapped to 0 .. 1; a score outside it is `unscorable`.
    cache: folder that keeps replies by content, so that no question is paid for twice; off by default.
    attempts, timeout_s: tries a question, and seconds for each. Where the endpoint limits the rate (429), all questions of a
    worker wait as long as its `Retry-After` says, at most 30 seconds a try. The recipe's `scoring.deadline_s` bounds all tries of an answer
    together: raise it for a slow judge. concurrency: questions under way in a worker, which asks those of one group at a time;
    `scoring.workers` is the number of workers.

    >>> judge = Judge(model="any", verdict=r"score: (\\d+)", lowest=1, highest=5)
    >>> judge.read("The steps are sound. Score: 5, I would say score: 4").value
    0.75
    >>> judge.read("I would rather not say.").status
    'unscorable'
    """

    def __init__(
        self,
        *,
        model: str,
        url: str = "https://api.openai.com/v1",
        api_key_env: str = "OPENAI_API_KEY",
        template: str = "answer",
        verdict: str = VERDICT,
        json_key: str = "",
        lowest: float = 0.0,
        highest: float = 1.0,
        cache: str = "",
        attempts: int = 4,
        timeout_s: float = 60.0,
        pause_s: float = 0.5,
        concurrency: int = 16,
        temperature: float = 0.0,
        max_tokens: int = 512,
    ) -> None:
        self.template, self.reader = (
            load_template(template),
            Reader(verdict, json_key, lowest, highest),
        )
        if not re.match(r"https?://[^/]", url):
            raise ValueError(f"url is {url!r}; write it whole, as http://localhost:8000/v1")
        if attempts < 1:
            raise ValueError(f"attempts is {attempts}; a question takes at least 1")
        self.url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.settings = {"model": model, "temperature": temperature, "max_tokens": max_tokens}
        self.attempts, self.pause_s = attempts, pause_s
        self.cache = Path(cache) if cache else None
        key = os.environ.get(api_key_env, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.client = httpx.AsyncClient(
            headers=headers, timeout=timeout_s, limits=httpx.Limits(max_connections=concurrency)
        )
        self.room = asyncio.Semaphore(concurrency)
        self.resume_at = 0.0
        """When the endpoint takes questions again, on the monotonic clock."""

    async def __call__(
        self, completion: str, answer: Any, prompt: str | list[Message], **columns: Any
    ) -> Verdict:
        completion = after_thoughts(completion)
        if not completion.strip():
            return Verdict(value=0.0, reason="an empty answer is not sent to the judge")
        body = {
            **self.settings,
            "messages": [
                {
                    "role": "user",
                    "content": fill(self.template, prompt, completion, answer, columns),
                }
            ],
        }
        kept = self._kept(body)
        if kept is not None and kept.is_file():
            return self.read(kept.read_text(encoding="utf-8"))
        try:
            async with self.room:
                reply = await self._ask(body)
        except httpx.TimeoutException as error:
            return Verdict(
                value=None,
                status="timed-out",
                reason=f"the judge gave no reply ({type(error).__name__})",
            )
        except (httpx.HTTPError, ValueError) as error:
            return Verdict(
                value=None,
                status="unscorable",
                reason=f"no verdict from the judge: {error or type(error).__name__}",
            )
        found = self.read(reply)
        if kept is not None and found.value is not None:
            _write(kept, reply)
        return found

    def read(self, reply: str) -> Verdict:
        """The verdict in a reply."""
        return self.reader(reply)

    async def _ask(self, body: Mapping[str, Any]) -> str:
        """The judge's words. Raises httpx.HTTPError, or ValueError for a reply that is no chat completion."""
        failures: list[Exception] = []
        for attempt in range(1, self.attempts + 1):
            pause = self.pause_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
            pause = min(_LONGEST_PAUSE_S, pause)
            await asyncio.sleep(max(0.0, self.resume_at - time.monotonic()))
            try:
                response = await self.client.post(self.url, json=body)
                if response.status_code not in _WORTH_RETRYING:
                    return _words(response)
                failures.append(ValueError(_status(response)))
                told = _retry_after(response.headers.get("retry-after", ""))
                if told is not None:
                    # a limit of rate holds for all questions of this worker
                    pause = min(_LONGEST_PAUSE_S, told)
                    self.resume_at = max(self.resume_at, time.monotonic() + pause)
            except (
                httpx.TransportError,
                json.JSONDecodeError,
                KeyError,
                IndexError,
                TypeError,
            ) as error:
                failures.append(error)
            if attempt < self.attempts:
                await asyncio.sleep(pause)
        if isinstance(failures[-1], httpx.HTTPError):
            raise failures[-1]
        reasons = dict.fromkeys(str(failure) for failure in failures)
        raise ValueError(f"{', then '.join(reasons)} after {self.attempts} tries")

    def _kept(self, body: Mapping[str, Any]) -> Path | None:
        if self.cache is None:
            return None
        key = hashlib.sha256(json.dumps([self.url, body], sort_keys=True).encode()).hexdigest()
        return self.cache / key[:2] / f"{key[2:]}.txt"


class Reader:
    """Reads verdicts out of replies. Raises ValueError if the expression does not have exactly one group."""

    def __init__(self, verdict: str, json_key: str, lowest: float, highest: float) -> None:
        try:
            self.pattern = re.compile(verdict, re.IGNORECASE)
        except re.error as error:
            raise ValueError(
                f"verdict is {verdict!r}, no regular expression: {error}"
            ) from None
        if self.pattern.groups != 1:
            raise ValueError(
                f"the expression {verdict!r} must have one group, which is the score"
            )
        self.json_key, self.lowest, self.highest = json_key, lowest, highest
        if lowest >= highest:
            raise ValueError(f"lowest ({lowest:g}) must be below highest ({highest:g})")

    def __call__(self, reply: str) -> Verdict:
        said = (
            _last_json(reply).get(self.json_key)
            if self.json_key
            else (self.pattern.findall(reply) or [None])[-1]
        )
        word = str(said).strip().lower().replace("\u2212", "-")
        try:
            score = (
                self.lowest + (self.highest - self.lowest) * _WORDS[word]
                if word in _WORDS
                else float(word)
            )
        except ValueError:
            return Verdict(
                value=None,
                status="unscorable",
                reason=f"the judge's reply has no verdict: {reply[-200:]!r}",
            )
        if not self.lowest <= score <= self.highest:
            reason = f"the judge gave {word}, outside of its scale {self.lowest:g} to {self.highest:g}"
            return Verdict(value=None, status="unscorable", reason=reason)
        return Verdict(
            value=(score - self.lowest) / (self.highest - self.lowest), reason=reply[-500:]
        )


def load_template(template: str) -> str:
    """The text of a template, read from its file if it is a path or a name.

    Raises ValueError for a name that is none, and if nothing of the answer is in the text.
    """
    names = sorted(path.stem for path in TEMPLATES.glob("*.txt"))
    text = template
    if template in names:
        text = (TEMPLATES / f"{template}.txt").read_text(encoding="utf-8").rstrip()
    elif template.endswith(".txt"):
        text = Path(template).read_text(encoding="utf-8")
    elif not re.search(r"\s", template):
        raise ValueError(
            f"the judge's template is {template!r}: neither a prompt, nor a .txt file, nor one of {', '.join(names)}"
        )
    if "{completion}" not in text:
        raise ValueError(
            "the judge's template has no {completion}, so all completions would be judged alike"
        )
    return text


def fill(
    template: str,
    prompt: str | list[Message],
    completion: str,
    answer: Any,
    columns: Mapping[str, Any],
) -> str:
    """The template with its fields filled in, in one pass: a field's name inside an answer stays as it is.

    A list of texts is written one to a line.

    >>> fill("{answer} or {completion}? {other}", "p", "{answer}", 4, {})
    '4 or {answer}? {other}'
    """
    asked = (
        prompt
        if isinstance(prompt, str)
        else "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)
    )
    fence = (
        f"completion-{hashlib.sha256(completion.encode('utf-8', 'replace')).hexdigest()[:12]}"
    )
    fields = {
        **columns,
        "prompt": asked,
        "completion": completion,
        "answer": answer,
        "fence": fence,
    }
    return re.sub(r"\{(\w+)\}", lambda match: _shown(fields.get(match[1], match[0])), template)


def _shown(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return str(value)


def _words(response: httpx.Response) -> str:
    if response.is_error:
        raise ValueError(_status(response))
    words = response.json()["choices"][0]["message"]["content"]
    if not isinstance(words, str):
        raise TypeError("the reply holds no text")
    return words


def _retry_after(header: str) -> float | None:
    """Seconds to wait, from a number or a date (RFC 9110); None where it is neither.

    >>> _retry_after("1.5"), _retry_after("soon")
    (1.5, None)
    """
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _status(response: httpx.Response) -> str:
    return f"HTTP {response.status_code} from {response.url}: {' '.join(response.text[:200].split())}"


def _last_json(reply: str) -> dict[str, Any]:
    """The last JSON object in a text, which may stand in prose or a code fence."""
    decoder = json.JSONDecoder()
    for start in reversed([match.start() for match in re.finditer(r"\{", reply)]):
        try:
            found, _ = decoder.raw_decode(reply, start)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def _write(path: Path, text: str) -> None:
    """Whole or not at all: other workers read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
    os.replace(file.name, path)
