// What the recipe was, what is wrong, and the evaluations as a table.
"use strict"

function showOverview(data) {
  const cards = data.runs.map((run, number) => {
    const swatch = data.runs.length > 1 ? element("span", { class: "swatch", style: `background:var(--c${number % 10})` }) : null
    const facts = run.facts.map(([name, value]) => element("tr", {}, element("th", {}, name), element("td", { class: "value" }, value)))
    return element("div", { class: "card" },
      element("h4", {}, swatch, run.folder),
      element("table", {}, element("tbody", {}, facts)),
      element("details", {}, element("summary", {}, "the whole recipe"), element("pre", { class: "recipe" }, run.recipe)))
  })
  const findings = data.runs.flatMap((run) => run.findings.map((finding) => shownFinding(finding, data.runs.length > 1 ? run.name : "")))
  const warnings = data.runs.flatMap((run) => run.warnings.map((warning) => element("li", {},
    element("small", {}, `${data.runs.length > 1 ? `${run.name}, ` : ""}${warning.stage}, step ${warning.step}: `), warning.sentence)))
  if (warnings.length) findings.push(element("details", {}, element("summary", {}, "warnings of the first steps"), element("ul", {}, warnings)))
  const grid = element("div", { class: "grid", style: "grid-template-columns:repeat(auto-fill,minmax(min(100%,34rem),1fr))" }, cards)
  document.getElementById("overview").replaceChildren(element("h2", {}, "Overview"), ...findings, grid)
}

function shownFinding(finding, run) {
  const where = [run, finding.stage, finding.first === finding.last ? `step ${finding.first}` : `steps ${finding.first} to ${finding.last}`]
  return element("div", { class: "finding" },
    element("b", {}, finding.title), " ", element("small", {}, where.filter(Boolean).join(", ")),
    element("div", {}, finding.sentence), element("small", {}, finding.link))
}

const EVALUATION_COLUMNS = [
  ["stage", (row) => row.stage], ["step", (row) => shortNumber(row.step)], ["eval set", (row) => row.eval_set],
  ["accuracy", (row) => percent(row.accuracy)],
  ["95% interval", (row) => (row.low === null ? "" : `${percent(row.low)} – ${percent(row.high)}`)],
  ["tasks", (row) => shortNumber(row.tasks)], ["completions", (row) => shortNumber(row.completions)],
  ["mean length", (row) => shortNumber(row["completions/length/mean"])],
  ["truncated", (row) => percent(row["completions/frac_truncated"])], ["unfinished", (row) => percent(row["completions/frac_unfinished"])],
  ["unscored", (row) => percent(row["reward/frac_unscored"])], ["seconds", (row) => shortNumber(row["time/total"])],
]
const TEXT_COLUMNS = ["run", "stage", "eval set"]

function showEvaluations(data) {
  const several = data.runs.length > 1
  const rows = data.runs.flatMap((run) => run.evaluations.map((row) => ({ ...row, run: run.name })))
  const place = document.getElementById("evaluations")
  if (!rows.length) {
    place.replaceChildren(element("h2", {}, "Evaluations"), element("p", { class: "note" }, "none yet"))
    return
  }
  const categories = [...new Set(rows.flatMap((row) => Object.keys(row).filter((key) => key.startsWith("accuracy/"))))]
  const measures = [...new Set(rows.flatMap((row) => Object.keys(row).filter((key) => /^(greedy\/accuracy|(pass|maj)@(?!1$)\d+)$/.test(key))))]
  const measured = measures.map((key) => [key === "greedy/accuracy" ? "greedy" : key, (row) => percent(row[key])])
  const columns = [...(several ? [["run", (row) => row.run]] : []), ...EVALUATION_COLUMNS.slice(0, 5), ...measured, ...EVALUATION_COLUMNS.slice(5)]
  const parts = [element("h2", {}, "Evaluations"), tableOf(columns, rows)]
  if (categories.length) {
    const names = categories.map((key) => [key.slice("accuracy/".length), (row) => percent(row[key])])
    const first = columns.filter(([name]) => ["run", "stage", "step"].includes(name))
    parts.push(element("details", {}, element("summary", {}, "accuracy by category"), tableOf([...first, ...names], rows)))
  }
  place.replaceChildren(...parts)
}

function tableOf(columns, rows) {
  const kind = (name) => (TEXT_COLUMNS.includes(name) ? "" : "number")
  const head = element("tr", {}, columns.map(([name]) => element("th", { class: kind(name) }, name)))
  const body = rows.map((row) => element("tr", {}, columns.map(([name, text]) => element("td", { class: kind(name) }, text(row)))))
  return element("div", { class: "scroll card" }, element("table", {}, element("thead", {}, head), element("tbody", {}, body)))
}
