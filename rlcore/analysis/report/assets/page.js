// Entry points of the page. Texts of runs only ever become text nodes: nothing here parses HTML.
"use strict"

/** An element with attributes, listeners (on...) and children; a child that is a string becomes a text node. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value)
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value)
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined))
  return node
}

/** Colour number i of the palette, for the present scheme (light or dark). */
function colour(i) {
  return cssValue(`--c${i % 10}`)
}

function cssValue(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim()
}

/** A number in four digits at most; an empty text for null. */
function shortNumber(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return ""
  if (Number.isInteger(value)) return value.toLocaleString("en")
  return String(Number(value.toPrecision(4)))
}

function percent(value) {
  return value === null || value === undefined ? "" : `${(100 * value).toFixed(1)}%`
}

const RlcoreReport = {
  data: null,
  settings: { smoothing: null, stage: "", hidden: new Set() },
  isLive: false,

  /** Show the records of all runs; in a live page again whenever they have changed. */
  show(data) {
    this.data = data
    document.getElementById("written").textContent = `${this.isLive ? "live, " : ""}written ${data.written}`
    showControls(data, this.settings, () => showCharts(data, this.settings))
    showOverview(data)
    showCharts(data, this.settings)
    showEvaluations(data)
    Viewer.show(data)
  },

  /** Called by a chunk's script: rollouts of one run. */
  chunk(run, number, content) {
    Chunks.arrived(run, number, content)
  },

  /** Called by an index's script: the columns of one run's rollouts. */
  index(run, columns) {
    this.data.runs[run].rollouts.columns = columns
    Viewer.show(this.data)
  },

  /** Ask for new records every few seconds. */
  live() {
    this.isLive = true
    const address = `${decodeURIComponent(location.pathname.split("/").pop()).replace(/\.html$/, "")}_files/records.js`
    let last = null
    const ask = async () => {
      try {
        const answer = await fetch(address, { method: "HEAD", cache: "no-store" })
        const changed = answer.headers.get("last-modified")
        if (answer.ok && changed !== last) {
          last = changed
          loadScript(`${address}?${encodeURIComponent(changed)}`)
        }
      } catch {
        document.getElementById("written").textContent = "the server has ended"
      }
      setTimeout(ask, 2000)
    }
    ask()
  },
}

/** Load a script beside the page. */
function loadScript(address) {
  return new Promise((resolve, reject) => {
    const script = element("script", { src: address, charset: "utf-8" })
    script.onload = () => { script.remove(); resolve() }
    script.onerror = () => { script.remove(); reject(new Error(`${address} is missing: keep it beside the page`)) }
    document.head.append(script)
  })
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (RlcoreReport.data) showCharts(RlcoreReport.data, RlcoreReport.settings)
})
