// Rollouts in memory: chunks that are loaded when they are asked for, and the columns that filters go through.
"use strict"

const KEPT_CHUNKS = 60 // in memory, of those that lie in files

/** Chunks of rollouts by run and number, loaded when they are asked for. */
const Chunks = {
  inside: new Map(), // those that are part of the page
  loaded: new Map(), // those of files, oldest use first
  waiting: new Map(), // key -> resolve

  arrived(run, number, content) {
    const key = `${run}/${number}`
    const resolve = this.waiting.get(key)
    if (resolve) { this.waiting.delete(key); resolve(content) } else this.inside.set(key, content)
  },

  /** The chunk if it is in memory, and has not grown since in a live page. */
  ready(run, number) {
    const key = `${run}/${number}`
    const loaded = this.loaded.get(key)
    const isWhole = loaded && loaded.size === RlcoreReport.data.runs[run].rollouts.chunks[number]
    return this.inside.get(key) || (isWhole ? loaded.content : null)
  },

  async get(run, number) {
    const { prefix, chunks } = RlcoreReport.data.runs[run].rollouts
    const key = `${run}/${number}`
    if (this.inside.has(key)) return this.inside.get(key)
    const before = this.loaded.get(key)
    if (before && before.size === chunks[number]) {
      this.loaded.delete(key) // and put back as the last one used
      this.loaded.set(key, before)
      return before.promise
    }
    const promise = new Promise((resolve, reject) => {
      this.waiting.set(key, resolve)
      loadScript(`${prefix}${number}.js${RlcoreReport.isLive ? `?${chunks[number]}` : ""}`).catch(reject)
    })
    const entry = { promise, size: chunks[number], content: null }
    this.loaded.set(key, entry)
    if (this.loaded.size > KEPT_CHUNKS) this.loaded.delete(this.loaded.keys().next().value)
    entry.content = await promise
    return promise
  },
}

/** The columns of an index as arrays; columns of names also know the names. */
function expanded({ columns, chunks, count }) {
  const numbers = (runs) => {
    const array = new Int32Array(count)
    let at = 0
    for (const [value, times] of runs) { array.fill(value, at, at + times); at += times }
    return array
  }
  const named = (runs) => {
    const names = [...new Set(runs.map(([name]) => name))]
    const codes = numbers(runs.map(([name, times]) => [names.indexOf(name), times]))
    return { names: [...names].sort(), codes, codeOf: (name) => names.indexOf(name), at: (i) => names[codes[i]] }
  }
  const starts = [0]
  for (const size of chunks) starts.push(starts[starts.length - 1] + size)
  return {
    count, starts, step: numbers(columns.step), group: numbers(columns.group), length: Int32Array.from(columns.length),
    value: Float32Array.from(columns.value, (value) => (value === null ? NaN : value)),
    stage: named(columns.stage), category: named(columns.category), status: named(columns.status), finish: named(columns.finish),
    decoding: named(columns.decoding),
    chunkOf(position) {
      let low = 0
      let high = starts.length - 2
      while (low < high) {
        const middle = (low + high + 1) >> 1
        if (starts[middle] <= position) low = middle
        else high = middle - 1
      }
      return low
    },
  }
}

/** Positions that pass the filters. A rollout without a score passes no bound on the reward. */
function filtered(index, filters) {
  const from = (name) => (filters[name] === undefined || filters[name] === "" ? -Infinity : Number(filters[name]))
  const to = (name) => (filters[name] === undefined || filters[name] === "" ? Infinity : Number(filters[name]))
  const code = (column, name) => (filters[name] ? column.codeOf(filters[name]) : -1)
  const bounds = [[index.step, from("step-from"), to("step-to")], [index.length, from("length-from"), to("length-to")]]
  const [low, high] = [from("reward-from"), to("reward-to")]
  if (low !== -Infinity || high !== Infinity) bounds.push([index.value, low - 1e-6, high + 1e-6])
  const names = [[index.stage, "in-stage"], [index.category, "category"], [index.status, "status"], [index.finish, "finish"],
    [index.decoding, "decoding"]]
    .map(([column, name]) => [column.codes, code(column, name)]).filter(([, wanted]) => wanted >= 0)
  const positions = new Uint32Array(index.count)
  let n = 0
  next: for (let i = 0; i < index.count; i++) {
    for (const [column, least, most] of bounds) if (!(column[i] >= least && column[i] <= most)) continue next
    for (const [codes, wanted] of names) if (codes[i] !== wanted) continue next
    positions[n++] = i
  }
  return positions.slice(0, n)
}

function sorted(positions, index, order) {
  const reward = (i, without) => (Number.isNaN(index.value[i]) ? without : index.value[i])
  const orders = {
    newest: null, oldest: null,
    "highest reward": (a, b) => reward(b, -Infinity) - reward(a, -Infinity) || a - b,
    "lowest reward": (a, b) => reward(a, Infinity) - reward(b, Infinity) || a - b,
    longest: (a, b) => index.length[b] - index.length[a] || a - b,
    shortest: (a, b) => index.length[a] - index.length[b] || a - b,
  }
  if (orders[order]) return positions.sort(orders[order])
  if (order === "oldest") return positions
  return newestFirst(positions, index)
}

/** Later steps first; within a step as they were written, so that groups stay together. */
function newestFirst(positions, index) {
  const result = new Uint32Array(positions.length)
  let end = positions.length
  let at = 0
  while (end > 0) {
    let start = end - 1
    while (start > 0 && index.step[positions[start - 1]] === index.step[positions[end - 1]]) start--
    result.set(positions.subarray(start, end), at)
    at += end - start
    end = start
  }
  return result
}

/** Positions of the rollouts of the same task and step. */
function groupOf(index, position) {
  let first = position
  let last = position
  while (first > 0 && index.group[first - 1] === index.group[position]) first--
  while (last + 1 < index.count && index.group[last + 1] === index.group[position]) last++
  return Array.from({ length: last - first + 1 }, (_, i) => first + i)
}
