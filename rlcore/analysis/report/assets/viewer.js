// The rollout viewer: filters over the index, a list of which only what is in sight exists, and one rollout or its group.
"use strict"

const ROW_HEIGHT = 52 // of the list, as in the style sheet

const Viewer = {
  run: 0,
  index: null, // columns of the run as arrays
  matches: null, // positions that pass the filters, in the order of the list
  chosen: null, // position that is shown
  colouring: "advantage",
  wholeGroup: false,
  filters: { order: "newest" },
  searching: 0, // number of the latest search; older ones stop

  show(data) {
    const place = document.getElementById("rollouts")
    const heading = element("h2", {}, "Rollouts")
    const { rollouts } = data.runs[this.run]
    if (data.runs.every((run) => run.rollouts.count === 0)) {
      place.replaceChildren(heading, element("p", { class: "note" }, "none yet"))
      return
    }
    this.index = rollouts.columns ? expanded(rollouts) : null
    if (!place.querySelector(".viewer")) this.build(place, heading, data)
    this.fillChoices()
    if (this.index) { this.apply(); if (this.chosen === null && this.matches.length && !isNarrow()) this.open(this.matches[0]) }
    else if (rollouts.count) loadScript(`${rollouts.prefix}index.js`).catch((error) => this.say(error.message))
  },

  build(place, heading, data) {
    const set = (name) => (event) => { this.filters[name] = event.target.value; this.apply() }
    const number = (name, title) => element("input", { type: "number", step: "any", "aria-label": title, id: name, oninput: set(name) })
    const choice = (name) => element("select", { id: name, onchange: set(name) })
    const range = (name) => element("label", {}, `${name} `, number(`${name}-from`, `${name} from`), " – ", number(`${name}-to`, `${name} to`))
    const runs = element("select", { id: "run" }, data.runs.map((run, i) => element("option", { value: i }, run.name)))
    runs.onchange = () => { this.run = Number(runs.value); this.chosen = null; this.show(RlcoreReport.data) }
    const order = choice("order")
    order.append(...["newest", "oldest", "highest reward", "lowest reward", "longest", "shortest"].map((name) => element("option", {}, name)))
    const search = element("input", { type: "search", id: "search", placeholder: "search texts, answers, reasons", "aria-label": "search" })
    let pause = 0
    search.oninput = () => { clearTimeout(pause); pause = setTimeout(() => { this.filters.search = search.value; this.apply() }, 200) }
    const bar = element("div", { class: "filters" },
      data.runs.length > 1 ? element("label", {}, "run ", runs) : null, element("label", {}, "stage ", choice("in-stage")), range("step"),
      element("label", {}, "category ", choice("category")), element("label", {}, "status ", choice("status")),
      element("label", {}, "end ", choice("finish")), element("label", {}, "decoding ", choice("decoding")), range("reward"), range("length"),
      element("label", { class: "wide" }, search), element("label", {}, "order ", order),
      element("button", { id: "clear", onclick: () => this.clear() }, "clear"))
    this.list = element("div", { class: "card list", tabindex: "0", onscroll: () => this.paint(), onkeydown: (event) => this.move(event) })
    this.detail = element("div", { class: "card detail" })
    this.counts = element("p", { class: "note", id: "count" })
    this.viewer = element("div", { class: "viewer" }, this.list, this.detail)
    place.replaceChildren(heading, bar, this.counts, this.viewer)
  },

  /** Values that the select boxes offer: those that occur in the run. */
  fillChoices() {
    if (!this.index) return
    for (const [id, column] of [["in-stage", "stage"], ["category", "category"], ["status", "status"], ["finish", "finish"], ["decoding", "decoding"]]) {
      const select = document.getElementById(id)
      const names = this.index[column].names
      const label = select.closest("label")
      label.hidden = names.length < 2
      select.replaceChildren(element("option", { value: "" }, "all"), ...names.map((name) => element("option", { value: name }, name)))
      select.value = names.includes(this.filters[id]) ? this.filters[id] : ""
      this.filters[id] = select.value
    }
  },

  clear() {
    this.filters = { order: "newest" }
    for (const input of document.querySelectorAll(".filters input, .filters select")) if (input.id !== "run") input.value = input.id === "order" ? "newest" : ""
    this.apply()
  },

  say(text) { this.counts.textContent = text },

  /** Filter by the index; a search then goes through the texts of what is left. */
  apply() {
    if (!this.index) return
    const started = performance.now()
    this.searching += 1
    const positions = sorted(filtered(this.index, this.filters), this.index, this.filters.order)
    this.filterMs = performance.now() - started
    const words = (this.filters.search || "").trim().toLowerCase()
    if (words) this.search(words, positions, this.searching)
    else this.fill(positions, `${shortNumber(positions.length)} of ${shortNumber(this.index.count)} rollouts`)
  },

  fill(positions, text) {
    this.matches = positions
    this.say(text)
    this.list.scrollTop = 0
    this.paint()
  },

  /** Matches appear chunk by chunk, in the order of the list. */
  async search(words, positions, number) {
    const hits = []
    const chunks = new Map()
    for (const position of positions) {
      const chunk = this.index.chunkOf(position)
      if (!chunks.has(chunk)) chunks.set(chunk, [])
      chunks.get(chunk).push(position)
    }
    this.fill(hits, "searching")
    let done = 0
    for (const [chunk, members] of chunks) {
      let content
      try { content = await Chunks.get(this.run, chunk) } catch (error) { this.say(error.message); return }
      if (this.searching !== number) return // another filter or search began
      const texts = content.tasks.map(taskText)
      const before = hits.length
      for (const position of members) {
        const rollout = content.rows[position - this.index.starts[chunk]]
        if (texts[rollout.task].includes(words) || rolloutText(rollout).includes(words)) hits.push(position)
      }
      done += 1
      const progress = done < chunks.size ? `, ${Math.round(100 * done / chunks.size)}% searched` : ""
      this.say(`${shortNumber(hits.length)} of ${shortNumber(this.index.count)} rollouts${progress}`)
      if (hits.length !== before) this.paint()
    }
    this.paint()
  },

  /** Draw the rows of the list that are in sight. */
  paint() {
    const { list, matches, index } = this
    const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - 3)
    const last = Math.min(matches.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_HEIGHT) + 3)
    const rows = []
    this.lacksPreviews = false
    for (let i = first; i < last; i++) {
      const position = matches[i]
      const value = index.value[position]
      const end = index.finish.at(position)
      const status = index.status.at(position)
      const top = element("div", { class: "top" },
        element("b", { class: Number.isNaN(value) ? "bad" : "" }, Number.isNaN(value) ? "no score" : shortNumber(value)),
        element("span", {}, `step ${index.step[position]}`), element("span", {}, `${index.length[position]} tokens`),
        index.category.names.length > 1 ? element("span", {}, index.category.at(position)) : null,
        status !== "ok" ? element("span", { class: "bad" }, status) : null, end !== "stop" ? element("span", { class: "bad" }, end === "length" ? "truncated" : end) : null)
      const row = element("div", { class: position === this.chosen ? "row chosen" : "row", style: `top:${i * ROW_HEIGHT}px`, "data-position": position,
        onclick: () => this.open(position) }, top, element("div", { class: "preview" }, this.preview(position)))
      rows.push(row)
    }
    const height = element("div", { style: `height:${matches.length * ROW_HEIGHT}px` })
    list.replaceChildren(height, ...rows)
    clearTimeout(this.fetching)
    if (this.lacksPreviews) this.fetching = setTimeout(() => this.fetchPreviews(first, last), 120)
  },

  preview(position) {
    const chunk = this.index.chunkOf(position)
    const content = Chunks.ready(this.run, chunk)
    if (!content) { this.lacksPreviews = true; return "…" }
    const rollout = content.rows[position - this.index.starts[chunk]]
    return rollout.turns.map((turn) => turn.text).join(" ").slice(0, 160).replace(/\s+/g, " ")
  },

  async fetchPreviews(first, last) {
    const wanted = new Set()
    for (let i = first; i < last; i++) wanted.add(this.index.chunkOf(this.matches[i]))
    try { await Promise.all([...wanted].map((chunk) => Chunks.get(this.run, chunk))) } catch (error) { this.say(error.message); return }
    this.paint()
  },

  move(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key]
    if (!by || !this.matches.length) return
    event.preventDefault()
    const at = Array.prototype.indexOf.call(this.matches, this.chosen)
    const next = Math.min(this.matches.length - 1, Math.max(0, at + by))
    const top = next * ROW_HEIGHT
    if (top < this.list.scrollTop) this.list.scrollTop = top
    if (top + ROW_HEIGHT > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = top + ROW_HEIGHT - this.list.clientHeight
    this.open(this.matches[next])
  },

  /** Show a rollout. */
  async open(position) {
    this.chosen = position
    this.viewer.classList.add("reading")
    for (const row of this.list.querySelectorAll(".row")) row.classList.toggle("chosen", row.dataset.position === String(position))
    const members = groupOf(this.index, position)
    let rollouts
    try { rollouts = await Promise.all(members.map((member) => this.rollout(member))) } catch (error) { this.say(error.message); return }
    if (this.chosen !== position) return
    this.showDetail(position, members, rollouts)
  },

  async rollout(position) {
    const chunk = this.index.chunkOf(position)
    const content = await Chunks.get(this.run, chunk)
    const rollout = content.rows[position - this.index.starts[chunk]]
    return { ...rollout, of: content.tasks[rollout.task] }
  },

  showDetail(position, members, rollouts) {
    const rollout = rollouts[members.indexOf(position)]
    const again = () => this.showDetail(position, members, rollouts)
    const unknown = rollouts.some((member) => member.entropies) ? [] : ["entropy", "gap"] // the run did not keep them
    const option = ([name, text]) => element("option", unknown.includes(name) ? { value: name, disabled: "" } : { value: name }, text)
    const colouring = element("select", { id: "colouring" }, Object.entries(COLOURINGS).map(option))
    colouring.value = this.colouring
    colouring.onchange = () => { this.colouring = colouring.value; again() }
    const group = element("button", { id: "group", "aria-pressed": String(this.wholeGroup), onclick: () => { this.wholeGroup = !this.wholeGroup; again() } }, `group of ${members.length}`)
    const back = element("button", { class: "back", onclick: () => this.viewer.classList.remove("reading") }, "back to the list")
    const info = element("div", { class: "token-info" })
    const scale = colourScale(rollouts)
    const body = this.wholeGroup ? this.groupCards(members, rollouts, scale) : [this.facts(position, rollout), ...shownTurns(rollout, this.colouring, scale), verdict(rollout)]
    this.detail.replaceChildren(
      element("div", { class: "controls" }, back, element("label", {}, "colour by ", colouring), members.length > 1 ? group : null),
      element("div", { class: "turn prompt" }, element("small", {}, `prompt of task ${rollout.of.id}`), shownPrompt(rollout.of.prompt)),
      rollout.of.answer === null ? "" : element("div", { class: "chips" }, element("span", {}, "answer ", element("b", {}, answerText(rollout.of.answer)))),
      ...body, info)
    this.detail.onclick = (event) => { if (event.target.classList.contains("token")) info.textContent = event.target.title }
    this.detail.scrollTop = 0
  },

  groupCards(members, rollouts, scale) {
    const cards = rollouts.map((rollout, i) => element("div", { class: "card" }, this.facts(members[i], rollout, true), ...shownTurns(rollout, this.colouring, scale), verdict(rollout, true)))
    return [element("div", { class: "members" }, cards)]
  },

  facts(position, rollout, brief = false) {
    const { index } = this
    const value = index.value[position]
    const facts = [["reward", Number.isNaN(value) ? "no score" : shortNumber(value)], ["tokens", index.length[position]], ["end", index.finish.at(position) === "length" ? "truncated" : index.finish.at(position)]]
    if (index.status.at(position) !== "ok") facts.push(["status", index.status.at(position)])
    if (!brief) {
      facts.push(["step", index.step[position]], ["stage", index.stage.at(position)], ["category", index.category.at(position)])
      facts.push(["versions", [...new Set(rollout.versions.map(([version]) => version))].join(", ")], ["temperature", rollout.temperature ?? ""], ["id", rollout.id])
    }
    if (!rollout.accepted) facts.push(["filter", "rejected"])
    return element("div", { class: "chips" }, facts.map(([name, text]) => element("span", {}, `${name} `, element("b", {}, String(text)))))
  },
}

/** The parts of a verdict and its reason; in brief only whole rewards, without their own parts. */
function verdict(rollout, brief = false) {
  const entries = Object.entries(rollout.parts).filter(([name]) => !brief || !name.includes("/"))
  const parts = entries.map(([name, value]) => element("span", {}, `${name} `, element("b", {}, value === null ? "none" : shortNumber(value))))
  const reason = rollout.reason ? element("span", { class: "reason" }, rollout.reason) : null
  return element("div", { class: "chips verdict" }, parts, reason)
}

function shownPrompt(prompt) {
  const messages = typeof prompt === "string" ? [["", prompt]] : prompt
  return element("pre", {}, messages.map(([role, text]) => `${role ? `${role}: ` : ""}${text}\n`))
}

function answerText(answer) {
  return typeof answer === "string" ? answer : answer.map(([role, text]) => `${role}: ${text}`).join("\n")
}

function taskText(task) {
  return [task.id, typeof task.prompt === "string" ? task.prompt : answerText(task.prompt), task.answer === null ? "" : answerText(task.answer)].join("\n").toLowerCase()
}

function rolloutText(rollout) {
  return [rollout.id, rollout.reason, ...rollout.turns.map((turn) => turn.text)].join("\n").toLowerCase()
}

function isNarrow() {
  return matchMedia("(max-width: 800px)").matches
}
