"""The report in a real browser: it draws, filters, shows hostile texts as text, and stays quick. Slow tier: run with -m slow."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from rlcore.analysis.report.page import MOST_INSIDE, Report
from rlcore.run.folder import RunFolder
from rlcore.run.metrics import rollout_rows
from rlcore.terminal import visible
from rlcore.types import Group, Task, Verdict
from tests.report.browser import browser_session, opened
from tests.report.stories import (
    group_rows,
    log_steps,
    multi_turn,
    new_run,
    with_trainer,
    write_group,
)

pytestmark = pytest.mark.slow

PAYLOADS = [
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror='window.hacked=1'>",
    "<svg onload=window.hacked=1>",
    "<svg><script>window.hacked=1</script></svg>",
    "<iframe src='javascript:parent.hacked=1'></iframe>",
    "<body onload=window.hacked=1>",
    "<a href='javascript:window.hacked=1'>click</a>",
    "<details open ontoggle=window.hacked=1>",
    "<input autofocus onfocus=window.hacked=1>",
    "<video><source onerror=window.hacked=1></video>",
    "<object data='javascript:window.hacked=1'></object>",
    "<embed src='javascript:window.hacked=1'>",
    "<style>*{display:none}</style>",
    "<link rel=stylesheet href='http://198.51.100.7/x.css'>",
    "<meta http-equiv=refresh content='0;url=http://198.51.100.7/'>",
    "<base href='http://198.51.100.7/'>",
    "<form action='http://198.51.100.7/'><button>go</button></form>",
    "<!--<script>window.hacked=1//-->",
    "<!--[if gte IE 4]><script>window.hacked=1</script><![endif]-->",
    "\"><script>window.hacked=1</script>",
    "'-window.hacked=1-'",
    "\\\";window.hacked=1;//",
    "`${window.hacked=1}`",
    "]]><script>window.hacked=1</script>",
    "&lt;script&gt;window.hacked=1&lt;/script&gt;",
    "\u2028window.hacked=1\u2029",
    "{{RECORDS}}{{constructor.constructor('window.hacked=1')()}}",
    "<math><mtext></table><img src=x onerror=window.hacked=1></mtext></math>",
    "\u202e\x1b[2J<plaintext><noscript><xmp>window.hacked=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    with browser_session() as session:
        yield session


def written(*runs: Path, to: Path) -> Path:
    Report(runs, to).write()
    return to


def small_run(folder: Path, **settings) -> RunFolder:
    run = new_run(folder, **settings)
    for step in range(1, 7):
        task = Task(
            id=f"sum/{step}",
            prompt=f"{step}+1=",
            answer=str(step + 1),
            category="easy" if step % 2 else "hard",
        )
        texts = [f"step {step} says {step + i}" * (i + 1) for i in range(8)]
        write_group(run, step, task, texts, steps=step == 6)
    return run


@pytest.mark.parametrize("size", ["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_drawn_without_a_complaint(
    browser, tmp_path: Path, size: str, scheme: str
) -> None:
    small_run(tmp_path / "small", starts=(0, 2, 4))
    page = written(tmp_path / "small", to=tmp_path / "report.html")
    assert page.stat().st_size < 3_000_000 and not (tmp_path / "report_files").exists()
    with opened(browser, page, size=size, scheme=scheme) as shown:
        # accuracy, reward, length, truncated, entropy, equal rewards, shares, two other curriculum panels are left out, seconds, probe
        assert shown.page.evaluate("charts") == 9
        painted = shown.page.evaluate(
            "drawn.map(p => { const c = p.ctx.canvas, d = p.ctx.getImageData(0, 0, c.width, c.height).data;"
            " let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n })"
        )
        assert all(pixels > 500 for pixels in painted)
        assert (
            shown.page.evaluate("document.documentElement.scrollWidth")
            <= shown.page.viewport_size["width"]
        )
        assert shown.page.locator("#evaluations tbody tr").count() == 2 * 2  # and by category
        shown.screenshot(f"small_{size}_{scheme}")
        assert shown.problems == []


def test_resumes_and_intervals_are_painted(browser, tmp_path: Path) -> None:
    """Pixels of the alarm colour stand in the column of each resume, and in no other."""
    small_run(tmp_path / "small", starts=(0, 2, 4))
    with opened(browser, written(tmp_path / "small", to=tmp_path / "report.html")) as shown:
        columns = shown.page.evaluate("""() => {
            const plot = drawn[1], { ctx, bbox } = plot
            const alarm = (step) => {
                const x = Math.round(plot.valToPos(step, "x", true))
                let n = 0
                for (let dx = -1; dx <= 1; dx++) {
                    const d = ctx.getImageData(x + dx, bbox.top, 1, bbox.height).data
                    for (let i = 0; i < d.length; i += 4) n += d[i] > 150 && d[i + 1] < 90 && d[i + 2] < 90 && d[i + 3] > 100
                }
                return n
            }
            return [2.5, 4.5, 1.5, 3.5, 5.5].map(alarm)
        }""")
        assert all(n > 20 for n in columns[:2]) and all(n < 20 for n in columns[2:])
        low, high = shown.page.evaluate(
            "RlcoreReport.data.runs[0].evaluations.map(r => [r.low, r.high])"
        )[0]
        assert low == pytest.approx(0.1606, abs=1e-3) and high == pytest.approx(
            0.3682, abs=1e-3
        )


def test_filters_and_search(browser, tmp_path: Path) -> None:
    small_run(tmp_path / "small")
    with opened(browser, written(tmp_path / "small", to=tmp_path / "report.html")) as shown:
        page = shown.page
        assert shown.count() == "48 of 48 rollouts"
        page.fill("#step-from", "5")
        assert shown.count() == "16 of 48 rollouts"
        page.select_option("#category", "hard")
        assert shown.count() == "8 of 48 rollouts"
        page.select_option("#status", "wrong-format")
        assert shown.count() == "1 of 48 rollouts"
        page.click("#clear")
        page.fill("#reward-from", "0.9")
        assert shown.count() == "6 of 48 rollouts"
        page.click("#clear")
        page.select_option("#status", "timed-out")
        assert shown.count() == "6 of 48 rollouts" and "no score" in page.inner_text(
            ".list .row >> nth=0"
        )
        page.click("#clear")
        page.select_option("#finish", "length")
        assert shown.count() == "6 of 48 rollouts"
        page.click("#clear")
        page.select_option("#decoding", "greedy")
        greedy = sum((s + i) % 4 == 1 for s in range(1, 7) for i in range(8))
        assert shown.count() == f"{greedy} of 48 rollouts"
        page.click("#clear")
        page.fill("#length-to", "20")
        expected = sum(
            len(f"step {s} says {s + i}" * (i + 1)) <= 20 for s in range(1, 7) for i in range(8)
        )
        assert shown.count() == f"{expected} of 48 rollouts"
        page.click("#clear")
        page.fill("#search", "BECAUSE step 3 says 3")
        shown.until("document.getElementById('count').textContent.startsWith('1 of')")
        page.click("#clear")
        page.select_option("#order", "longest")
        assert page.inner_text(".list .row >> nth=0").startswith("1")
        assert shown.problems == []


def test_a_rollout_and_its_group(browser, tmp_path: Path) -> None:
    small_run(tmp_path / "small")
    with opened(browser, written(tmp_path / "small", to=tmp_path / "report.html")) as shown:
        page = shown.page
        page.click(".list .row >> nth=7")
        page.wait_for_selector(".detail .token")
        text = "step 6 says 13" * 8
        assert "".join(page.locator(".detail .token").all_inner_texts()) == text
        assert page.locator(".detail .step").count() == 2
        assert "value of the prompt 0.5" in page.inner_text(".detail .step >> nth=0")
        blue = page.locator(".detail .token").first.get_attribute("style")
        assert blue.startswith("background:rgba(42,120,214")  # advantage 0.5
        assert "untrained" in page.locator(".detail .token").last.get_attribute("class")
        assert page.locator(".detail .token").nth(3).get_attribute("title") == (
            "token 4, advantage 0.5, log-probability -0.30, version 1"
        )
        page.select_option("#colouring", "version")
        assert "--c1" in page.locator(".detail .token").first.get_attribute("style")
        assert "because step 6" in page.inner_text(".detail .verdict")
        page.click("#group")
        assert page.locator(".members > .card").count() == 8
        assert shown.problems == []


def test_tokens_are_coloured_by_what_the_learner_computed(browser, tmp_path: Path) -> None:
    run = new_run(tmp_path / "learnt", steps=2)
    task = Task(id="t", prompt="1+1=", answer="2")
    run.write_rollouts(1, 0, map(with_trainer, group_rows(task, ["four tokens", "five tokens"])))
    run.write_rollouts(2, 0, group_rows(task, ["nothing was kept", "of these"]))
    with opened(browser, written(tmp_path / "learnt", to=tmp_path / "report.html")) as shown:
        page = shown.page
        page.select_option("#order", "oldest")
        page.click(".list .row >> nth=0")
        shown.until("document.querySelectorAll('.detail .token').length === 11")
        tokens = page.locator(".detail .token")
        assert tokens.nth(5).get_attribute("title") == (
            "token 6, advantage -0.5, log-probability -0.50, learner minus engine 0.02, entropy 0.45, version 0"
        )
        page.select_option("#colouring", "entropy")
        strengths = [_alpha(tokens.nth(i).get_attribute("style")) for i in (1, 5, 9)]
        # 0.75 (1 - exp(-H)) for 1, 5 and 9 elevenths of a nat, kept in hundredths
        assert strengths == [0.06, 0.27, 0.42]
        assert tokens.nth(10).get_attribute("style") is None  # not trained
        page.select_option("#colouring", "gap")
        style = tokens.nth(3).get_attribute("style")
        assert "42,120,214" in style and _alpha(style) == 0.68  # the largest gap of the group
        page.click("#group")
        assert page.locator(".members .token[style*='42,120,214']").count() == 2 * 10
        page.click("#group")
        page.click(".list .row >> nth=2")
        shown.until("document.querySelector('.detail pre').textContent !== ''")
        shown.until("document.querySelector('#colouring option[value=gap]').disabled")
        assert page.locator(".detail .token[style]").count() == 0
        assert shown.problems == []


def _alpha(style: str) -> float:
    return float(style.rpartition(",")[2].rstrip(")"))


def test_turns_of_a_multi_turn_rollout(browser, tmp_path: Path) -> None:
    run = new_run(tmp_path / "turns")
    task = Task(id="tool/1", prompt="6*7?", answer="42")
    group = Group(task=task, rollouts=[multi_turn(task)], verdicts=[Verdict(value=1.0)])
    run.write_rollouts(
        1, 0, rollout_rows([(0, group, True)], {}, {"tool/1#0": [[0.5, 16], [-0.5, 9]]})
    )
    for size in ("desktop", "phone"):
        with opened(
            browser, written(tmp_path / "turns", to=tmp_path / "report.html"), size=size
        ) as shown:
            page = shown.page
            page.click(".list .row")
            assert page.locator(".detail .turn small").all_inner_texts() == [
                "prompt of task tool/1", "turn 1: completion", "turn 2: observation", "turn 3: completion"
            ]  # fmt: skip
            assert "the tool says 42" in page.inner_text(".detail .turn.observation")
            last = page.locator(".detail .turn.completion >> nth=1").locator(".token")
            assert last.first.get_attribute("title").startswith("token 17, advantage -0.5")
            shown.screenshot(f"turns_{size}")
            assert shown.problems == []


def test_hostile_texts_are_shown_as_text(browser, tmp_path: Path) -> None:
    assert len(PAYLOADS) == 30
    run = new_run(tmp_path / "hostile")
    for step, text in enumerate(PAYLOADS, start=1):
        task = Task(
            id=f"{step}/{text}",
            prompt=[{"role": text, "content": text}],
            answer=text,
            category=text,
        )
        write_group(run, step, task, [text, text])
    run.log_metrics(
        {
            "step": 31,
            "stage": PAYLOADS[0],
            f"reward/{PAYLOADS[2]}": 1.0,
            f"curriculum/{PAYLOADS[3]}/frac": 1.0,
        }
    )
    with opened(browser, written(tmp_path / "hostile", to=tmp_path / "report.html")) as shown:
        page = shown.page
        page.select_option("#order", "oldest")
        for i, text in enumerate(PAYLOADS):
            page.evaluate(f"Viewer.open({2 * i})")
            shown.until(
                f"document.querySelector('.detail .turn.prompt small').textContent.includes('{i + 1}/')"
            )
            assert page.evaluate(
                "document.querySelector('.detail .turn.completion pre').textContent"
            ) == visible(text)
            assert page.evaluate(
                "document.querySelector('.detail .turn.prompt pre').textContent"
            ) == visible(f"{text}: {text}\n")
            page.click("#group")
            assert page.locator(".members > .card").count() == 2
            page.click("#group")
        tags = page.evaluate(
            "[...new Set([...document.body.querySelectorAll('*')].map(n => n.localName))]"
        )
        assert not {
            "img",
            "svg",
            "iframe",
            "object",
            "embed",
            "video",
            "form",
            "link",
            "base",
            "math",
            "style",
        } & set(tags)
        assert page.evaluate("window.hacked") is None
        assert shown.problems == []


def test_what_is_wrong_stands_first(browser, ill: Path, tmp_path: Path) -> None:
    with opened(browser, written(ill, to=tmp_path / "report.html")) as shown:
        assert "All completions are cut rl, steps 1 to 4" in shown.page.inner_text(
            ".finding >> nth=0"
        )
        assert "docs/not_learning.md#all-truncated" in shown.page.inner_text(
            ".finding >> nth=0"
        )
        shown.page.click("#overview details summary >> nth=0")
        assert shown.page.locator("#overview li").count() >= 4
        shown.screenshot("ill")
        assert shown.problems == []


def test_several_runs_overlay(browser, tmp_path: Path) -> None:
    for name in ("one", "two"):
        small_run(tmp_path / name)
    with opened(
        browser, written(tmp_path / "one", tmp_path / "two", to=tmp_path / "both.html")
    ) as shown:
        page = shown.page
        labels = page.evaluate("drawn[1].series.map(s => s.label)")
        assert labels == ["step", "one", "two"]
        before = page.evaluate("charts")
        page.click("#run-choice input >> nth=1")
        assert (
            page.evaluate("charts") == before - 2
        )  # the stacked charts are drawn for each run
        page.select_option("#run", "1")
        assert shown.count() == "48 of 48 rollouts"
        shown.screenshot("overlay")
        assert shown.problems == []


def test_the_live_page_follows_the_run(browser, tmp_path: Path) -> None:
    run = small_run(tmp_path / "live")
    command = [
        sys.executable,
        "-m",
        "rlcore",
        "report",
        str(run.path),
        "--serve",
        "--port",
        "0",
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://\S+", server.stdout.readline())[0]
        refused = urllib.request.Request(address, headers={"Host": "elsewhere.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(refused)
        with opened(browser, address.removesuffix("report.html")) as shown:
            assert shown.count() == "48 of 48 rollouts"
            write_group(run, 7, Task(id="late", prompt="x", answer="y"), ["late text"] * 4)
            log_steps(run, [7])
            shown.until("Viewer.index.count === 52", timeout_s=20)
            assert shown.page.evaluate("Math.max(...drawn[1].data[0])") == 7
            shown.page.wait_for_selector(".list .preview:has-text('late text')")
            server.send_signal(signal.SIGINT)
            shown.until(
                "document.getElementById('written').textContent === 'the server has ended'"
            )
            assert server.wait(timeout=20) == 130
    finally:
        server.kill()


def test_a_hundred_thousand_rollouts(browser, tmp_path: Path) -> None:
    run = new_run(tmp_path / "large", steps=100)
    for step in range(1, 101):
        rows = []
        for k in range(125):
            task = Task(
                id=f"t{step}/{k}",
                prompt=f"What is {step} + {k}?",
                answer=str(step + k),
                category=f"kind {k % 5}",
            )
            rows += group_rows(task, [f"The sum is {step + k + i}, I say." for i in range(8)])
        run.write_rollouts(step, 0, rows)
    page = written(tmp_path / "large", to=tmp_path / "100% #1.html")
    beside = sum(path.stat().st_size for path in (tmp_path / "100% #1_files").glob("*.js"))
    assert page.stat().st_size < 3_000_000 and beside > 10 * MOST_INSIDE
    with opened(browser, page) as shown:
        tab = shown.page
        tab.reload()
        tab.wait_for_selector(".detail .token")
        opened_s = tab.evaluate("performance.now()") / 1000
        assert shown.count() == "100,000 of 100,000 rollouts"
        seconds = {"page opens": opened_s}
        for box, value, expected in (
            ("reward-from", "0.9", "12,500"),
            ("step-to", "50", "50,000"),
            ("length-from", "1", "100,000"),
        ):
            started = time.perf_counter()
            tab.fill(f"#{box}", value)
            assert shown.count().startswith(f"{expected} of")
            seconds[box] = time.perf_counter() - started
            tab.click("#clear")
        for box, value in (
            ("category", "kind 3"),
            ("status", "timed-out"),
            ("order", "highest reward"),
        ):
            started = time.perf_counter()
            tab.select_option(f"#{box}", value)
            shown.count()
            seconds[box] = time.perf_counter() - started
            tab.click("#clear")
        started = time.perf_counter()
        tab.fill("#search", "what is 97 + 12?")
        shown.until(
            "document.getElementById('count').textContent.startsWith('8 of')", timeout_s=60
        )
        shown.until(
            "!document.getElementById('count').textContent.includes('searched')", timeout_s=60
        )
        search_s = time.perf_counter() - started
        print(json.dumps({**seconds, "search of all texts": search_s}))
        assert seconds.pop("page opens") < 2
        assert max(seconds.values()) < 0.5
        assert shown.problems == []
