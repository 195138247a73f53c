"""A gate's findings for a terminal, for a pull request (markdown) and for a CI server (JUnit XML)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from bench.gate.config import LATENCY, QUALITY
from bench.gate.run import Result
from bench.gate.verdicts import EXIT_CODES, Finding, Verdict
from bench.records import write_atomically

STYLES: dict[Verdict, str] = {
    "PASS": "green",
    "FAIL": "bold red",
    "INVALID": "bold magenta",
    "INCONCLUSIVE": "yellow",
    "NOTICE": "cyan",
    "WAIVED": "cyan",
}
HEADINGS = ("cell", "check", "verdict", "base", "head", "change", "reason")


def summary(result: Result) -> Group:
    """One screen: latency, scores, and of the rest only what did not pass."""
    table = Table(*HEADINGS, box=None, pad_edge=False)
    for finding in _shown(result):
        first, check, *others = map(Text, _texts(finding))
        table.add_row(first, check, Text(finding.verdict, STYLES[finding.verdict]), *others)
    head = Text.assemble("gate ", (result.verdict, STYLES[result.verdict]), f": {headline(result)}")
    return Group(table, head)


def headline(result: Result) -> str:
    quiet = len(result.findings) - len(list(_shown(result)))
    more = f", {quiet} further checks passed" if quiet else ""
    return f"base {result.base}, head {result.head}, {result.seconds:.0f} s{more}"


def _shown(result: Result) -> Iterator[Finding]:
    for finding in result.findings:
        if finding.verdict != "PASS" or finding.check == LATENCY or finding.cell == QUALITY:
            yield finding


def _texts(finding: Finding) -> list[str]:
    """Everything but the verdict, each on one line."""
    texts = (finding.cell, finding.check, finding.base, finding.head, finding.change, finding.detail)
    return [_line(text) for text in texts]


def _line(text: str) -> str:
    """What a worker says may have line breaks, which end a row, and control characters, which XML 1.0 refuses."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def markdown(result: Result) -> str:
    """For a comment on a pull request: the summary's rows, then everything, folded."""

    def rows(findings: list[Finding]) -> list[str]:
        lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
        for finding in findings:
            first, check, *others = (text.replace("|", "/") for text in _texts(finding))
            lines.append(f"| {' | '.join([first, check, f'**{finding.verdict}**', *others])} |")
        return lines

    return "\n".join(
        [
            f"### Regression gate: {result.verdict}",
            "",
            headline(result),
            "",
            *rows(list(_shown(result))),
            "",
            "<details><summary>All checks</summary>",
            "",
            *rows(result.findings),
            "",
            f"Fingerprint of the environment: `{result.fingerprint}`",
            "",
            "</details>",
            "",
        ]
    )


def junit(result: Result) -> str:
    """A suite with one case a check. FAIL is a failure, INVALID an error; INCONCLUSIVE and WAIVED are skipped."""
    from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

    suite = TestSuite("regression gate")
    for finding in result.findings:
        case = TestCase(_line(finding.check), classname=f"gate.{_line(finding.cell)}")
        kind = {"FAIL": Failure, "INVALID": Error, "INCONCLUSIVE": Skipped, "WAIVED": Skipped}.get(
            finding.verdict
        )
        if kind is not None:
            case.result = [kind(_sentence(finding), finding.verdict)]
        else:
            case.system_out = _sentence(finding)
        suite.add_testcase(case)
    suite.time = result.seconds
    document = JUnitXml()
    document.add_testsuite(suite)
    text = document.tostring()
    return text.decode() if isinstance(text, bytes) else str(text)


def _sentence(finding: Finding) -> str:
    _, _, base, head, change, detail = _texts(finding)
    return "; ".join(filter(None, (base and f"{base} -> {head}", change, detail)))


def as_json(result: Result) -> str:
    """Everything that a script may want, restarts included."""
    return json.dumps(
        {
            "schema_version": 1,
            "verdict": result.verdict,
            "exit_code": EXIT_CODES[result.verdict],
            "base": result.base,
            "head": result.head,
            "trees": {
                side: {"commit": tree.commit, "sha256": tree.sha256} for side, tree in result.trees.items()
            },
            "fingerprint": result.fingerprint,
            "started": result.started.isoformat(),
            "seconds": result.seconds,
            "findings": [vars(finding) for finding in result.findings],
            "restarts": {
                cell: [{"base": one.base, "head": one.head} for one in restarts]
                for cell, restarts in result.restarts.items()
            },
        },
        indent=1,
        allow_nan=False,
    )


def write(result: Result, to_json: Path | None, to_markdown: Path | None, to_junit: Path | None) -> None:
    for path, make in ((to_json, as_json), (to_markdown, markdown), (to_junit, junit)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, make(result))


def show(console: Console, result: Result) -> None:
    console.print(summary(result))
    if result.verdict == "INCONCLUSIVE" and result.stored:
        console.print("A stored base says nothing of latency: only base measured in turn does.")
    elif result.verdict == "INCONCLUSIVE":
        console.print("A gate is not run again until it is green: quieten the machine, or raise `restarts`.")
