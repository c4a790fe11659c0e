// Zoom, drag, hover, click and download for the circuit's SVG. Called again whenever Python sends another picture.

export default function ({ data, parentElement, setTriggerValue }) {
  const host = parentElement.querySelector(".host")
  const state = (host.state ??= { zoom: { k: 1, x: 0, y: 0 }, places: new Map() })
  state.report = (item) => setTriggerValue("clicked", item)
  if (state.svg === data.svg) {
    mark(host, data.picked)
    return
  }
  const first = state.svg === undefined
  state.svg = data.svg
  state.file = data.file
  const svg = document.importNode(new DOMParser().parseFromString(data.svg, "image/svg+xml").documentElement, true)
  host.style.height = `${data.height}px`
  host.replaceChildren(svg)
  const stage = svg.querySelector(".stage")
  const world = svg.querySelector(".world")
  glide(state, world, first)
  transform(state, world)
  mark(host, data.picked)
  zooming(state, svg, stage, world)
  picking(state, svg, world)
  if (first) tools(parentElement, host, state)
}

// Nodes that were there before move from their old place; new edges fade in.
function glide(state, world, first) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches
  const places = new Map()
  for (const node of world.querySelectorAll(".node")) {
    const place = node.getAttribute("transform").match(/-?[\d.]+/g).map(Number)
    const before = state.places.get(node.dataset.node)
    places.set(node.dataset.node, place)
    if (first || calm) continue
    if (before && (before[0] !== place[0] || before[1] !== place[1])) {
      const at = ([x, y]) => ({ transform: `translate(${x}px, ${y}px)` })
      node.animate([at(before), at(place)], { duration: 350, easing: "ease-in-out" })
    } else if (!before) {
      node.animate([{ opacity: 0 }, { opacity: 1 }], 350)
    }
  }
  const edges = new Set()
  for (const edge of world.querySelectorAll(".edge")) {
    edges.add(edge.dataset.item)
    if (!first && !calm && !state.edges.has(edge.dataset.item)) edge.animate([{ opacity: 0 }, {}], 350)
  }
  state.places = places
  state.edges = edges
}

function transform(state, world) {
  const { k, x, y } = state.zoom
  world.setAttribute("transform", `translate(${x} ${y}) scale(${k})`)
}

// In the picture's own coordinates.
function place(svg, event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse())
  return [point.x, point.y]
}

function zoomAt(state, world, [x, y], factor) {
  const zoom = state.zoom
  const k = Math.min(12, Math.max(0.5, zoom.k * factor))
  zoom.x = x - ((x - zoom.x) * k) / zoom.k
  zoom.y = y - ((y - zoom.y) * k) / zoom.k
  zoom.k = k
  transform(state, world)
}

function zooming(state, svg, stage, world) {
  const top = Number(stage.getAttribute("y"))
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return // the page scrolls; pinching arrives with ctrlKey
    event.preventDefault()
    const [x, y] = place(svg, event)
    zoomAt(state, world, [x, y - top], Math.exp(-event.deltaY / 400))
  }, { passive: false })
  let from = null
  svg.addEventListener("pointerdown", (event) => {
    state.moved = false
    if (event.button === 0) from = { at: place(svg, event), zoom: { ...state.zoom } }
  })
  svg.addEventListener("pointermove", (event) => {
    if (!from) return
    const [x, y] = place(svg, event)
    const [dx, dy] = [x - from.at[0], y - from.at[1]]
    if (!state.moved && Math.hypot(dx, dy) < 4) return
    if (!state.moved) svg.setPointerCapture(event.pointerId)
    state.moved = true
    state.zoom.x = from.zoom.x + dx
    state.zoom.y = from.zoom.y + dy
    transform(state, world)
  })
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => (from = null))
}

function picking(state, svg, world) {
  const item = (event) => event.target.closest?.("[data-item]")
  svg.addEventListener("click", (event) => {
    if (!state.moved) state.report(item(event)?.dataset.item ?? "none")
  })
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && item(event)) state.report(item(event).dataset.item)
  })
  svg.addEventListener("pointerover", (event) => focus(world, item(event)))
  svg.addEventListener("pointerleave", () => focus(world, null))
}

// A node stands out with its edges and their other ends, an edge with its two ends.
function focus(world, element) {
  world.classList.toggle("focus", Boolean(element))
  for (const lit of world.querySelectorAll(".lit")) lit.classList.remove("lit")
  if (!element) return
  const { node, from, to } = element.dataset
  const names = new Set(node === undefined ? [from, to] : [node])
  const near = node === undefined ? [element] : [...world.querySelectorAll(".edge, .link")].filter(
    (edge) => edge.dataset.from === node || edge.dataset.to === node)
  for (const edge of near) {
    edge.classList.add("lit")
    if (edge.dataset.item) world.querySelector(`[data-of="${edge.dataset.item}"]`)?.classList.add("lit")
    names.add(edge.dataset.from).add(edge.dataset.to)
  }
  for (const other of world.querySelectorAll(".node")) other.classList.toggle("lit", names.has(other.dataset.node))
}

function mark(host, picked) {
  for (const element of host.querySelectorAll("[data-item]"))
    element.classList.toggle("picked", element.dataset.item === picked)
}

function tools(parentElement, host, state) {
  const middle = () => {
    const stage = host.querySelector(".stage")
    return [stage.width.baseVal.value / 2, stage.height.baseVal.value / 2]
  }
  const world = () => host.querySelector(".world")
  const actions = {
    in: () => zoomAt(state, world(), middle(), 1.4),
    out: () => zoomAt(state, world(), middle(), 1 / 1.4),
    reset: () => {
      state.zoom = { k: 1, x: 0, y: 0 }
      transform(state, world())
    },
    svg: () => save(new Blob([state.svg], { type: "image/svg+xml" }), `${state.file}.svg`),
    png: () => rasterise(state),
  }
  for (const button of parentElement.querySelectorAll("[data-do]")) button.onclick = actions[button.dataset.do]
}

function rasterise(state) {
  const image = new Image()
  image.onload = () => {
    const canvas = document.createElement("canvas")
    canvas.width = 2 * image.width
    canvas.height = 2 * image.height
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height)
    canvas.toBlob((blob) => save(blob, `${state.file}.png`), "image/png")
    URL.revokeObjectURL(image.src)
  }
  image.src = URL.createObjectURL(new Blob([state.svg], { type: "image/svg+xml" }))
}

function save(blob, name) {
  const link = document.createElement("a")
  link.href = URL.createObjectURL(blob)
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 1000)
}
