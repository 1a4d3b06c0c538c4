// One rollout's text: its turns, tokens with colours, and reasoning steps with their values.
"use strict"

const MOST_TOKENS = 4000 // of a rollout that are coloured; the rest is plain text
const COLOURINGS = { advantage: "advantage", logprob: "log-probability", version: "policy version", none: "no colours" }
const UP = "42,120,214"
const DOWN = "214,69,65"
const UNLIKELY = "217,140,20"

/** Numbers of each completion token: advantage (undefined: unknown, null: not trained), log-probability, version. */
function tokenNumbers(rollout) {
  const spread = (runs) => runs.flatMap(([value, times]) => Array(times).fill(value))
  return { advantage: spread(rollout.advantages), logprob: rollout.logprobs.map((hundredths) => hundredths / 100), version: spread(rollout.versions) }
}

/** What colours are relative to: the largest |advantage| and the oldest version of some rollouts. */
function colourScale(rollouts) {
  let advantage = 0
  let oldest = Infinity
  for (const rollout of rollouts) {
    for (const [value] of rollout.advantages) advantage = Math.max(advantage, Math.abs(value ?? 0))
    for (const [version] of rollout.versions) oldest = Math.min(oldest, version)
  }
  return { advantage, oldest }
}

/** Style of a token; colours are see-through, so that they do on light and on dark paper. */
function tokenStyle(colouring, numbers, i, scale) {
  const advantage = numbers.advantage[i]
  if (colouring === "advantage" && advantage && scale.advantage) {
    const strength = 0.08 + 0.6 * Math.abs(advantage) / scale.advantage
    return `background:rgba(${advantage > 0 ? UP : DOWN},${strength.toFixed(2)})`
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
