// One rollout's text: its turns, tokens with colours, and reasoning steps with their values.
"use strict"

const MOST_TOKENS = 4000 // of a rollout that are coloured; the rest is plain text
const COLOURINGS = { advantage: "advantage", logprob: "log-probability", entropy: "entropy", gap: "learner minus engine", version: "policy version", none: "no colours" }
const UP = "42,120,214"
const DOWN = "214,69,65"
const UNLIKELY = "217,140,20"
const UNCERTAIN = "142,84,201"
const LEAST_GAP = 0.001 // nats that always have a faint colour: below it is round-off

/** Numbers of each completion token: advantage, gap and entropy (undefined: unknown, null: not trained), log-probability, version. */
function tokenNumbers(rollout) {
  const spread = (runs) => runs.flatMap(([value, times]) => Array(times).fill(value))
  const scaled = (whole, unit) => whole.map((value) => (value === null ? null : value / unit))
  return {
    advantage: spread(rollout.advantages), logprob: scaled(rollout.logprobs, 100), version: spread(rollout.versions),
    gap: scaled(rollout.gaps ?? [], 10000), entropy: scaled(rollout.entropies ?? [], 100),
  }
}

/** What colours are relative to: the largest |advantage| and |gap| and the oldest version of some rollouts. */
function colourScale(rollouts) {
  let advantage = 0
  let gap = LEAST_GAP
  let oldest = Infinity
  for (const rollout of rollouts) {
    for (const [value] of rollout.advantages) advantage = Math.max(advantage, Math.abs(value ?? 0))
    for (const value of rollout.gaps ?? []) gap = Math.max(gap, Math.abs(value ?? 0) / 10000)
    for (const [version] of rollout.versions) oldest = Math.min(oldest, version)
  }
  return { advantage, gap, oldest }
}

/** Red to blue around 0. */
function signed(value, largest) {
  const strength = 0.08 + 0.6 * Math.abs(value) / largest
  return `background:rgba(${value > 0 ? UP : DOWN},${strength.toFixed(2)})`
}

/** Style of a token; colours are see-through, so that they do on light and on dark paper. */
function tokenStyle(colouring, numbers, i, scale) {
  const advantage = numbers.advantage[i]
  if (colouring === "advantage" && advantage && scale.advantage) return signed(advantage, scale.advantage)
  if (colouring === "gap" && numbers.gap[i]) return signed(numbers.gap[i], scale.gap)
  if (colouring === "entropy" && numbers.entropy[i]) {
    const strength = 0.75 * (1 - Math.exp(-numbers.entropy[i]))
    return `background:rgba(${UNCERTAIN},${strength.toFixed(2)})`
  }
  if (colouring === "logprob" && numbers.logprob[i] !== undefined) {
    const strength = 0.75 * (1 - Math.exp(numbers.logprob[i] / 2))
    return `background:rgba(${UNLIKELY},${strength.toFixed(2)})`
  }
  if (colouring === "version" && numbers.version[i] !== undefined) {
    return `background:color-mix(in srgb, var(--c${(numbers.version[i] - scale.oldest) % 10}) 35%, transparent)`
  }
  return null
}

function tokenTitle(numbers, i) {
  const advantage = numbers.advantage[i]
  const parts = [`token ${i + 1}`]
  if (advantage !== undefined) parts.push(advantage === null ? "not trained" : `advantage ${shortNumber(advantage)}`)
  if (numbers.logprob[i] !== undefined) parts.push(`log-probability ${numbers.logprob[i].toFixed(2)}`)
  if (numbers.gap[i] != null) parts.push(`learner minus engine ${shortNumber(numbers.gap[i])}`)
  if (numbers.entropy[i] != null) parts.push(`entropy ${numbers.entropy[i].toFixed(2)}`)
  if (numbers.version[i] !== undefined) parts.push(`version ${numbers.version[i]}`)
  return parts.join(", ")
}

/** All turns after the prompt, as elements. */
function shownTurns(rollout, colouring, scale) {
  const numbers = tokenNumbers(rollout)
  const several = rollout.turns.length > 1
  let position = 0 // of the next completion token
  return rollout.turns.map((turn, i) => {
    const wrote = turn.role === "completion"
    const text = element("pre", {})
    if (wrote && turn.lengths) {
      position = addTokens(text, turn, rollout.steps, position, (k) => ({
        style: tokenStyle(colouring, numbers, k, scale), title: tokenTitle(numbers, k),
        class: colouring === "advantage" && numbers.advantage[k] === null ? "token untrained" : "token",
      }))
    } else {
      text.append(turn.text)
    }
    let heading = several ? `turn ${i + 1}: ${turn.role}` : turn.role
    if (turn.reward) heading += `, reward ${shortNumber(turn.reward)}`
    return element("div", { class: `turn ${turn.role}` }, element("small", {}, heading), text)
  })
}

/** Put the tokens of a completion into an element, a heading before each reasoning step; returns the position after them. */
function addTokens(place, turn, steps, position, attributes) {
  const starts = new Map(steps ? [0, ...steps.ends.slice(0, -1)].map((start, k) => [start, k]) : [])
  let start = 0
  for (const length of turn.lengths) {
    const step = starts.get(position)
    if (step !== undefined) place.append(stepHeading(steps.values, step))
    if (position >= MOST_TOKENS) {
      place.append(turn.text.slice(start))
      return position + turn.lengths.length
    }
    place.append(element("span", attributes(position), turn.text.slice(start, start + length)))
    start += length
    position += 1
  }
  return position
}

function stepHeading(values, k) {
  const number = (value) => (value === null ? "not estimated" : shortNumber(value))
  const before = values[k]
  const after = values[k + 1]
  const change = before === null || after === null ? "" : `, change ${after >= before ? "+" : ""}${shortNumber(after - before)}`
  const first = k === 0 ? `value of the prompt ${number(before)}; ` : ""
  return element("span", { class: "step" }, `${first}step ${k + 1}: value after it ${number(after)}${change}`)
}
