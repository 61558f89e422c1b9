"use strict";
(() => {
  // All text from the data reaches the page as text nodes and attributes, never as HTML.
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 20;
  const byId = (id) => document.getElementById(id);

  function element(tag, properties = {}, ...children) {
    const { data: attributes = {}, ...rest } = properties;
    const made = Object.assign(document.createElement(tag), rest);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  const views = {
    hardest: "hardest first (lowest INP)",
    best: "best first (highest INP)",
    random: "a random choice",
    all: "all of these, in the order of the split",
  };
  for (const [name, label] of Object.entries(views)) byId("view").append(new Option(label, name));
  const cameras = [...new Set(data.queries.map((query) => data.pictures[query.picture].camera))]
    .filter((camera) => camera !== null).sort((a, b) => a - b);
  byId("camera").append(new Option("any", ""));
  for (const camera of cameras) byId("camera").append(new Option(`camera ${camera}`, camera));
  if (!cameras.length) byId("camera").parentElement.hidden = true;

  let shown = [];    // the queries that pass the filters, in order
  let limit = PAGE;  // how many of them are on the page

  function words(picture) {
    return [picture.name, ...Object.values(picture.attributes)].join(" ").toLowerCase();
  }

  function select() {
    const view = byId("view").value;
    const camera = byId("camera").value;
    const identity = byId("identity").value.trim();
    const text = byId("text").value.trim().toLowerCase();
    const wrong = byId("wrong").checked;
    const members = data.queries.filter((query) => view === "all" || view in query.views);
    if (view !== "all") members.sort((a, b) => a.views[view] - b.views[view]);
    shown = members.filter((query) => {
      const own = data.pictures[query.picture];
      return (camera === "" || String(own.camera) === camera)
        && (identity === "" || String(own.identity) === identity)
        && (!wrong || query.first_hit !== 1)
        && (text === "" || [query.picture, ...query.results.map((result) => result.picture)]
          .some((key) => words(data.pictures[key]).includes(text)));
    });
    limit = PAGE;
    byId("lines").replaceChildren();
    draw();
    byId("count").textContent = `${shown.length} of ${members.length} `
      + `${members.length === 1 ? "query" : "queries"} in this view`
      + (members.length === data.counted ? "." : `, which were chosen from ${data.counted}.`);
  }

  function draw() {
    const lines = byId("lines");
    for (let number = lines.children.length; number < Math.min(limit, shown.length); number++) {
      lines.append(line(shown[number]));
    }
    const left = shown.length - lines.children.length;
    byId("more").hidden = left <= 0;
    byId("more").textContent = `Show ${Math.min(PAGE, left)} more (${left} left)`;
  }

  const known = (picture) => Object.values(picture.attributes).join(" ");
  const cameraOf = (picture) => picture.camera === null ? "" : `camera ${picture.camera}`;
  const judged = (result) => result.correct ? "right" : "wrong";
  const marked = (result) => result.correct ? "✓" : "✗";

  function line(query) {
    const own = data.pictures[query.picture];
    const button = element("button", { type: "button", className: "picture", onclick: () => open(query, 0) },
      element("img", { src: own.source, alt: `Query: identity ${own.identity} ${cameraOf(own)}`.trim() }));
    const facts = [
      element("strong", { textContent: `identity ${own.identity}` }),
      [cameraOf(own), known(own)].filter(Boolean).join(", "),
      `AP ${query.average_precision.toFixed(3)}, INP ${query.inverse_negative_penalty.toFixed(3)}`,
      `${query.hits} right ${query.hits === 1 ? "answer" : "answers"}, the first at rank ${query.first_hit}`,
    ];
    const text = element("div");
    for (const fact of facts) if (fact) text.append(element("div", {}, fact));
    const results = element("ol", { className: "results", data: { "aria-label": "Results, nearest first" } });
    query.results.forEach((result, rank) => {
      const picture = data.pictures[result.picture];
      const says = `Rank ${rank + 1}, ${judged(result)}: identity ${picture.identity} ${cameraOf(picture)}`.trim();
      const caption = element("span", { className: "caption" },
        element("span", { className: "mark", textContent: marked(result) }), ` ${result.distance.toFixed(2)}`);
      if (picture.camera !== null) caption.append(element("br"), `c${picture.camera}`);
      results.append(element("li", {}, element("button", {
        type: "button", className: `picture ${judged(result)}`, title: picture.name, onclick: () => open(query, rank),
      }, element("img", { src: picture.source, alt: says }), caption)));
    });
    return element("li", { className: "line" }, element("div", { className: "query" }, button, text), results);
  }

  // The larger view.
  const viewer = byId("viewer");
  let at = { query: null, rank: 0 };

  function open(query, rank) {
    at = { query, rank };
    fill();
    if (!viewer.open) viewer.showModal();
  }

  function fill() {
    const { query, rank } = at;
    const result = query.results[rank];
    const own = data.pictures[query.picture];
    byId("viewer-title").textContent = `Query ${shown.indexOf(query) + 1} of ${shown.length}, `
      + `rank ${rank + 1} of ${query.results.length}`
      + (result ? `, distance ${result.distance.toFixed(3)}` : "");
    byId("right-title").textContent = result
      ? `Rank ${rank + 1}: ${marked(result)} ${judged(result)}` : "No result";
    byId("left").replaceChildren(...large(own, "", "Query"));
    byId("right").replaceChildren(...(result
      ? large(data.pictures[result.picture], judged(result), `Rank ${rank + 1}, ${judged(result)}`) : []));
    // A button that is disabled while it has the focus loses it to the page, and the keys with it.
    for (const [id, ends] of [["previous", rank === 0], ["next", rank >= query.results.length - 1]]) {
      if (ends && document.activeElement === byId(id)) byId("close").focus();
      byId(id).disabled = ends;
    }
  }

  function large(picture, judgement, alt) {
    const facts = element("p", { className: "small" }, picture.name);
    for (const fact of [[`identity ${picture.identity}`, cameraOf(picture)].filter(Boolean).join(", "), known(picture)]) {
      if (fact) facts.append(element("br"), fact);
    }
    const made = [
      element("img", { className: `large ${judgement}`, src: picture.source, alt: `${alt}: identity ${picture.identity}` }),
      facts,
    ];
    if (picture.maps) {
      const bytes = Uint8Array.from(atob(picture.maps), (letter) => letter.charCodeAt(0));
      let start = 0;
      let branch = null;
      let maps = null;
      for (const layout of data.layouts) {
        if (layout.branch !== branch) {
          branch = layout.branch;
          maps = element("div", { className: "maps" });
          const kept = branch in picture.kept ? `: gate keeps ${Math.round(100 * picture.kept[branch])} %` : "";
          made.push(element("h3", { textContent: `Branch ${branch}${kept}` }), maps);
        }
        maps.append(heatMap(picture, layout, bytes.subarray(start, start + layout.height * layout.width)));
        start += layout.height * layout.width;
      }
    } else if (data.layouts.length) {
      made.push(element("p", { className: "small faint", textContent: `Heat maps are kept for queries and their first ${data.heat_map_results} results.` }));
    }
    return made;
  }

  // From black through purple and orange to pale yellow: its lightness rises throughout, so it reads without colour.
  const STOPS = [[0, 0, 4], [60, 15, 110], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]];

  function colour(value) {
    const place = value / 255 * (STOPS.length - 1);
    const index = Math.min(Math.floor(place), STOPS.length - 2);
    return STOPS[index].map((low, channel) => low + (place - index) * (STOPS[index + 1][channel] - low));
  }

  function paint(canvas, values) {
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    values.forEach((value, place) => image.data.set([...colour(value), 255], 4 * place));
    context.putImageData(image, 0, 0);
  }

  function heatMap(picture, layout, values) {
    const canvas = element("canvas", { width: layout.width, height: layout.height });
    paint(canvas, values);
    const stack = element("span", { className: "stack" },
      element("img", { src: picture.source, alt: "" }), canvas);
    stack.style.aspectRatio = `${picture.width} / ${picture.height}`;
    for (const [bounds, length, kind, side] of [
      [layout.rows, layout.height, "row", "top"], [layout.columns, layout.width, "column", "left"],
    ]) {
      for (const [start] of bounds.slice(1)) {
        const cut = element("span", { className: `cut ${kind}` });
        cut.style[side] = `${100 * start / length}%`;
        stack.append(cut);
      }
    }
    stack.setAttribute("role", "img");
    stack.setAttribute("aria-label", `Heat map of branch ${layout.branch}: ${layout.label}`);
    return element("figure", { className: "map" }, stack, element("figcaption", { textContent: layout.label }));
  }

  function step(by) {
    const rank = at.rank + by;
    if (rank >= 0 && rank < at.query.results.length) open(at.query, rank);
  }

  function stepQuery(by) {
    const next = shown[shown.indexOf(at.query) + by];
    if (next) open(next, 0);
  }

  viewer.addEventListener("keydown", (event) => {
    const action = {
      ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowUp: () => stepQuery(-1), ArrowDown: () => stepQuery(1),
    }[event.key];
    if (action) {
      event.preventDefault();
      action();
    }
  });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => viewer.close());

  const controls = byId("controls");
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", select);
  controls.addEventListener("reset", () => setTimeout(select));
  byId("more").addEventListener("click", () => { limit += PAGE; draw(); });

  const scale = byId("scale");
  if (scale) paint(scale, Uint8Array.from({ length: 256 }, (_, value) => value));
  select();
})();
