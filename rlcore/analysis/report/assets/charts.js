// Curves: which lines a chart has, smoothing, and marks of resumes and stages. uPlot draws.
"use strict"

const CHART_HEIGHT = 190
const WHOLE_STEPS = Array.from({ length: 9 }, (_, k) => [1, 2, 5].map((n) => n * 10 ** k)).flat() // between ticks

/** Stage, smoothing, and which runs are shown. */
function showControls(data, settings, changed) {
  const names = [...new Set(data.runs.flatMap((run) => run.stages.map((stage) => stage.name)))]
  const stage = document.getElementById("stage")
  stage.replaceChildren(element("option", { value: "" }, "all"), ...names.map((name) => element("option", { value: name }, name)))
  stage.value = settings.stage
  stage.onchange = () => { settings.stage = stage.value; changed() }

  const longest = Math.max(0, ...data.runs.map((run) => run.series.step.length))
  if (settings.smoothing === null) settings.smoothing = longest > 40 ? 0.7 : 0
  const slider = document.getElementById("smoothing")
  const output = document.getElementById("smoothing-value")
  slider.value = settings.smoothing
  output.textContent = slider.value
  slider.oninput = () => { settings.smoothing = Number(slider.value); output.textContent = slider.value; changed() }

  const choice = document.getElementById("run-choice")
  choice.replaceChildren()
  if (data.runs.length > 1) {
    data.runs.forEach((run, i) => {
      const box = element("input", { type: "checkbox", checked: !settings.hidden.has(i) })
      box.onchange = () => { box.checked ? settings.hidden.delete(i) : settings.hidden.add(i); changed() }
      const swatch = element("span", { class: "swatch", style: `background:var(--c${i % 10})` })
      choice.append(element("label", {}, box, swatch, run.name), " ")
    })
  }
  const thinned = data.runs.filter((run) => run.series.per_point > 1)
  document.getElementById("thinned").textContent = thinned.map(
    (run) => `${run.name}: each point is the mean of ${run.series.per_point} steps.`).join(" ")
}

let drawn = [] // the charts on the page
let charts = 0 // how many charts the page should have, for tests

function showCharts(data, settings) {
  drawn.forEach((plot) => plot.destroy())
  drawn = []
  charts = 0
  const place = document.getElementById("charts")
  place.replaceChildren()
  const runs = data.runs.map((run, number) => ({ ...run, number })).filter((run) => !settings.hidden.has(run.number))
  const accuracy = accuracyChart(runs)
  const later = []
  for (const section of data.sections) {
    const grid = element("div", { class: "grid" })
    if (section.title === "Reward" && accuracy) later.push(card(grid, accuracy))
    for (const chart of section.charts) {
      const parts = chart.kind === "stack" ? runs.map((run) => stackChart(chart, run, settings, runs.length > 1)) : [lineChart(chart, runs, settings)]
      for (const part of parts) if (part) later.push(card(grid, part))
    }
    if (grid.childElementCount) place.append(element("h3", {}, section.title), grid)
  }
  if (!data.sections.length && accuracy) {
    const grid = element("div", { class: "grid" })
    later.push(card(grid, accuracy))
    place.append(grid)
  }
  later.forEach((draw) => draw()) // once the cards have their width
}

/** Put a card into the grid; returns what draws its chart. */
function card(grid, chart) {
  const holder = element("div")
  const unit = chart.unit ? element("span", { class: "unit" }, ` (${chart.unit})`) : null
  grid.append(element("div", { class: "card chart" }, element("h4", {}, chart.title, unit), element("p", {}, chart.about || "\u00a0"), holder))
  charts += 1
  return () => {
    const plot = new uPlot({ ...chart.options, width: holder.clientWidth, height: CHART_HEIGHT }, chart.columns, holder)
    drawn.push(plot)
    new ResizeObserver(() => {
      if (holder.isConnected && holder.clientWidth !== plot.width) plot.setSize({ width: holder.clientWidth, height: CHART_HEIGHT })
    }).observe(holder)
  }
}

/** What is taken off a run's steps: with a stage chosen, they count from its beginning. */
function stepOffset(run, settings) {
  const stage = run.stages.find((span) => span.name === settings.stage)
  return stage ? stage.first - 1 : 0
}

/** The steps at which a run measured any of the metrics, in the chosen stage, and their values. */
function columnsOf(run, keys, settings) {
  const stage = run.stages.filter((span) => span.name === settings.stage)
  const offset = stepOffset(run, settings)
  const columns = keys.map((key) => run.series.columns[key] || [])
  const kept = []
  run.series.step.forEach((step, i) => {
    const chosen = !settings.stage || stage.some((span) => span.first <= step && step <= span.last)
    if (chosen && columns.some((column) => column[i] !== null && column[i] !== undefined)) kept.push(i)
  })
  return [kept.map((i) => run.series.step[i] - offset), ...columns.map((column) => kept.map((i) => column[i] ?? null))]
}

function lineChart(chart, runs, settings) {
  const keys = Object.keys(chart.lines)
  const tables = []
  const series = [{ label: "step" }]
  for (const run of runs) {
    const measured = keys.filter((key) => run.series.columns[key])
    const table = columnsOf(run, measured, settings)
    if (!measured.length || !table[0].length) continue
    const columns = [table[0]]
    measured.forEach((key, i) => {
      const several = runs.length > 1
      const stroke = colour(several ? run.number : keys.indexOf(key))
      const names = [several ? run.name : null, keys.length > 1 || !several ? chart.lines[key] : null]
      // lines of one run share its colour, and differ in their dashes
      const dash = several && keys.length > 1 ? [[], [6, 3], [2, 2], [8, 3, 2, 3]][keys.indexOf(key) % 4] : []
      const line = { label: names.filter(Boolean).join(" "), stroke, dash, width: 1.6, spanGaps: true, value: (_, value) => shortNumber(value) }
      const isShort = table[0].length < 3
      columns.push(smoothed(table[i + 1], settings.smoothing))
      series.push({ ...line, points: { show: isShort, size: 6 } })
      if (settings.smoothing > 0 && !isShort) {
        columns.push(table[i + 1])
        series.push({ ...line, class: "raw", alpha: 0.25, width: 1, dash: [], points: { show: false } })
      }
    })
    tables.push(columns)
  }
  if (!tables.length) return null
  const columns = tables.length > 1 ? uPlot.join(tables) : tables[0]
  return { ...chart, columns, options: { ...commonOptions(runs, settings), series } }
}

/** Exponential moving average that is not pulled to its first value; as long as the values, null where they are. */
function smoothed(values, weight) {
  let sum = 0
  let total = 0
  return values.map((value) => {
    if (value === null) return null
    sum = weight * sum + (1 - weight) * value
    total = weight * total + (1 - weight)
    return sum / total
  })
}

/** Lines that lie on each other. The highest is drawn first, and each covers what is above it. */
function stackChart(chart, run, settings, several) {
  const keys = Object.keys(chart.lines).filter((key) => run.series.columns[key])
  const [steps, ...values] = columnsOf(run, keys, settings)
  if (!keys.length || !steps.length) return null
  const heights = []
  values.forEach((column, k) => heights.push(column.map((value, i) => (value || 0) + (k ? heights[k - 1][i] : 0))))
  const order = keys.map((_, k) => keys.length - 1 - k)
  const series = [{ label: "step" }]
  for (const k of order) {
    const paint = colour(k)
    series.push({
      label: chart.lines[keys[k]], stroke: paint, fill: paint, width: 0, points: { show: steps.length < 3, size: 6 },
      value: (_, __, ___, index) => (index === null ? "" : shortNumber(values[k][index])),
    })
  }
  const options = commonOptions([run], settings)
  options.scales.y = { range: (_, low, high) => [0, high || 1] }
  const title = several ? `${chart.title}: ${run.name}` : chart.title
  return { ...chart, title, columns: [steps, ...order.map((k) => heights[k])], options: { ...options, series } }
}

/** Evaluations of each task set, with their intervals. */
function accuracyChart(runs) {
  const tables = []
  const series = [{ label: "step" }]
  const intervals = [null]
  for (const run of runs) {
    for (const [name, rows] of lineOfEvaluations(run)) {
      const paint = colour(runs.length > 1 ? run.number : series.length - 1)
      tables.push([rows.map((row) => row.step), rows.map((row) => row.accuracy)])
      series.push({
        label: runs.length > 1 ? `${run.name} ${name}` : name, stroke: paint, width: 1.6, spanGaps: true,
        points: { show: true, size: 7, fill: paint }, value: (_, value) => (value === null ? "" : percent(value)),
      })
      intervals.push({ rows, paint })
    }
  }
  if (!tables.length) return null
  const options = commonOptions(runs)
  options.scales.y = { range: (_, low, high) => [Math.min(0, low), Math.max(1, high)] }
  options.hooks.draw = [(plot) => intervals.forEach((line) => line && drawIntervals(plot, line))]
  const columns = tables.length > 1 ? uPlot.join(tables) : tables[0]
  return { title: "Accuracy", about: "evaluations, with 95% intervals over tasks", columns, options: { ...options, series } }
}

/** Name of a line -> its evaluations; a second evaluation at the same step begins a line of its own. */
function lineOfEvaluations(run) {
  const lines = new Map()
  for (const row of run.evaluations) {
    let name = row.eval_set
    const isTaken = (lines.get(name) || []).some((other) => other.step === row.step)
    if (isTaken) name = `${row.eval_set} (${row.stage})`
    if (!lines.has(name)) lines.set(name, [])
    lines.get(name).push(row)
  }
  return lines
}

function drawIntervals(plot, { rows, paint }) {
  const { ctx } = plot
  ctx.save()
  ctx.strokeStyle = paint
  ctx.lineWidth = 1.5 * devicePixelRatio
  for (const row of rows) {
    if (row.low === null) continue
    const x = plot.valToPos(row.step, "x", true)
    ctx.beginPath()
    ctx.moveTo(x, plot.valToPos(row.low, "y", true))
    ctx.lineTo(x, plot.valToPos(row.high, "y", true))
    ctx.stroke()
  }
  ctx.restore()
}

/** settings: where the chart shows the chosen stage alone. */
function commonOptions(runs, settings = {}) {
  const axis = { stroke: cssValue("--muted"), grid: { stroke: cssValue("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" }
  return {
    // a chart of one step still has a width
    scales: { x: { time: false, range: (_, low, high) => (low === high ? [low - 1, high + 1] : [low, high]) }, y: { range: rangeOf } },
    axes: [{ ...axis, size: 28, incrs: WHOLE_STEPS }, { ...axis, size: 52, values: (_, ticks) => ticks.map(shortNumber) }],
    cursor: { sync: { key: "step", scales: ["x", null] }, points: { size: 6 } },
    legend: { live: true },
    hooks: {
      drawClear: [(plot) => runs.forEach((run) => drawMarks(plot, run, runs.length > 1, stepOffset(run, settings)))],
      // a raw line follows its smoothed one
      setSeries: [(plot, i) => {
        const raw = plot.series[i + 1]
        if (i !== null && raw && raw.class === "raw" && raw.show !== plot.series[i].show) plot.setSeries(i + 1, { show: plot.series[i].show })
      }],
    },
  }
}

/** A little more than the values take; from 0 where the lowest is near it, and never empty. */
function rangeOf(_, low, high) {
  if (low === null) return [0, 1]
  const spread = high - low || Math.abs(high) || 1
  const bottom = low >= 0 && low < spread ? 0 : low - 0.08 * spread
  return [bottom, high + 0.08 * spread]
}

/** Dotted lines where the run was resumed; for a single run dashed ones where a stage begins. */
function drawMarks(plot, run, several, offset) {
  const marks = run.resumes.map((step) => ({ at: step + 0.5, text: "resumed", dash: [2, 3], paint: several ? colour(run.number) : cssValue("--alarm") }))
  if (!several) {
    run.stages.slice(1).forEach((stage) => marks.push({ at: stage.first - 0.5, text: stage.name, dash: [7, 4], paint: cssValue("--muted") }))
  }
  const { ctx, bbox } = plot
  const scale = devicePixelRatio
  ctx.save()
  ctx.font = `${10 * scale}px system-ui`
  ctx.lineWidth = scale
  for (const mark of marks) {
    const x = plot.valToPos(mark.at - offset, "x", true)
    if (x < bbox.left || x > bbox.left + bbox.width) continue
    ctx.strokeStyle = ctx.fillStyle = mark.paint
    ctx.setLineDash(mark.dash.map((length) => length * scale))
    ctx.beginPath()
    ctx.moveTo(x, bbox.top)
    ctx.lineTo(x, bbox.top + bbox.height)
    ctx.stroke()
    ctx.save()
    ctx.translate(x + 3 * scale, bbox.top + 2 * scale)
    ctx.rotate(Math.PI / 2)
    ctx.fillText(mark.text, 0, 0)
    ctx.restore()
  }
  ctx.restore()
}
