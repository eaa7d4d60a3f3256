// The operating points of a study in plots: the front chart, what is filtered, and the fixed point.

class Explorer extends PointPanel {
  constructor(article, study, painter) {
    super(article, study);
    this.painter = painter;
    this.brushed = null; // the figure that the brush is in
    this.cost = Object.keys(this.points.axes)[0];
    this.place = article.querySelector('[data-figure="front"] .chart');
    this.controls();
    this.table();
    this.place.addEventListener("keydown", (event) => this.step(event));
    painter.add(this.place, () => this.drawFront());
    for (const name of ["stops", "stop_map", "optimism"]) {
      const place = article.querySelector(`[data-figure="${name}"] .chart`);
      if (place) painter.add(place, () => this.drawLinked(name, place));
    }
    this.showFixed();
    this.showTables();
  }

  // The front chart.

  shownOf(rows) {
    return rows.map((row) => ({ ...row, shown: this.isShown(row.i) })); // the charts get rows of their own
  }

  frontRows() {
    if (this.madeFor === this.cost) return this.made;
    const rows = [];
    for (let index = 0; index < this.count; index++) {
      rows.push({
        i: index,
        x: this.x(index),
        accuracy: this.value("accuracy", index),
        series: this.value("policy_text", index),
        policy: this.value("policy_text", index),
        setting: this.value("setting", index) || "none",
        network: this.network(index),
        number: this.value("number", index),
        test: this.testText(index),
        state: this.state(index),
        front: this.points.on_front[index] === 1,
        broken: this.value("broken", index) !== null,
      });
    }
    [this.made, this.madeFor] = [rows, this.cost];
    return rows;
  }

  window() {
    // The part of the axes that is seen: the useful part near the classic network, or everything.
    const { low, reference } = this.points;
    const useful = [];
    for (let index = 0; index < this.count; index++) {
      if (this.value("accuracy", index) >= low && this.x(index) !== null) useful.push(index);
    }
    const all = this.article.querySelector(".everything").checked || useful.length < 3;
    const seen = all ? [...Array(this.count).keys()].filter((index) => this.x(index) !== null) : useful;
    let [x0, x1, y0, y1] = [Infinity, 0, reference, reference];
    for (const index of seen) {
      x0 = Math.min(x0, this.x(index));
      x1 = Math.max(x1, this.x(index));
      y0 = Math.min(y0, this.value("accuracy", index));
      y1 = Math.max(y1, this.value("accuracy", index));
    }
    // A classic network that costs many times more would push all points to the left; its line tells its cost.
    const { classic } = this.axis();
    if (all || classic < x1 * 3) [x0, x1] = [Math.min(x0, classic), Math.max(x1, classic)];
    const [wide, high] = [x1 - x0 || x1 || 1, y1 - y0 || 0.01];
    return { x0: Math.max(0, x0 - wide * 0.04), x1: x1 + wide * 0.04, y0: y0 - high * 0.05, y1: y1 + high * 0.09 };
  }

  labelPlace() {
    // Where the label of the classic network hides the fewest points, marks and parts of lines.
    const { x0, x1, y0, y1 } = this.window();
    const high = 400, wide = Math.max(200, this.place.offsetWidth - 70); // of the plot, in pixels, about
    const place = (x, y) => [((x - x0) / (x1 - x0)) * wide, ((y1 - y) / (y1 - y0)) * high];
    const seen = this.frontRows().filter((row) => row.front).map((row) => place(row.x, row.accuracy));
    const { bounds } = this.axis();
    for (const layer of this.study.figures[`front_${this.cost}`].layer) {
      const corners = (layer.data.values || []).map((one) => [...place(one.x, one.accuracy), one.line]);
      corners.forEach(([x, y, line], index) => {
        seen.push([x, y]);
        const next = line && corners[index + 1];
        if (!next || next[2] !== line) return;
        for (let part = 0; part <= 1; part += 0.05) seen.push([x + (next[0] - x) * part, y], [next[0], y + (next[1] - y) * part]);
      });
    }
    const short = wide < 420; // a phone: the cost of the classic network stands on the first screen
    const length = (axis) => bounds.find((one) => one.axis === axis)[short && axis === "classic" ? "short" : "label"].length * 6.6 + 10;
    const lost = place(x1, bounds.find((one) => one.axis === "accuracy").value)[1] + 11;
    for (let part = 0; part < length("accuracy"); part += 10) seen.push([wide - part, lost]);
    const line = place(x1, bounds.find((one) => one.axis === "classic").value)[1];
    const free = [-14, 14, -32, 32].flatMap((dy) => [false, true].map((left) => {
      const [first, last] = left ? [0, length("classic")] : [wide - length("classic"), wide];
      const hidden = seen.filter(([x, y]) => x >= first && x <= last && Math.abs(y - line - dy) <= 11).length;
      return { labelLeft: left, labelDy: dy, hidden: line + dy < 8 || line + dy > high - 8 ? Infinity : hidden };
    }));
    const { labelLeft, labelDy } = free.reduce((one, other) => (other.hidden < one.hidden ? other : one));
    return { labelLeft, labelDy, labelShort: short };
  }

  async drawFront() {
    const view = await drawChart(this.place, this.study.figures[`front_${this.cost}`], () => ({
      datasets: { points: this.shownOf(this.frontRows()), bounds: this.axis().bounds, fixed: this.fixedRow() },
      parameters: { ...this.window(), ...this.labelPlace(), limits: this.article.querySelector(".limits").checked, dot: this.points.front > 300 ? 26 : 46 },
    }));
    this.listen(view, "front", (index) => ({ x: this.x(index), accuracy: this.value("accuracy", index) }));
    view.addEventListener("click", (event, item) => {
      if (item && item.datum && isNumber(item.datum.i)) this.fix(item.datum.i);
    });
  }

  fixedRow() {
    const label = this.fixed === this.recommended ? "recommended" : `point ${this.value("number", this.fixed)}`;
    return [{ x: this.x(this.fixed), accuracy: this.value("accuracy", this.fixed), label }];
  }

  // Filters: the brush of one plot filters all plots and the table.

  listen(view, name, valuesOf) {
    let waiting = false;
    view.addSignalListener("brush", (_, brush) => {
      const sides = Object.entries(brush || {});
      if (!sides.length && this.brushed !== null && this.brushed !== name) return; // the other plot's brush stands
      if (sides.length && this.brushed !== null && this.brushed !== name) this.redraw(this.brushed);
      this.brushed = sides.length ? name : null;
      this.selected = sides.length ? this.inside(sides, valuesOf) : null;
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        this.filter();
      });
    });
  }

  inside(sides, valuesOf) {
    const found = new Set();
    for (let index = 0; index < this.count; index++) {
      const values = valuesOf(index);
      if (values && sides.every(([name, [low, high]]) => values[name] >= low && values[name] <= high)) found.add(index);
    }
    return found;
  }

  filter() {
    this.viewOf("front")?.data("points", this.shownOf(this.frontRows())).runAsync();
    this.viewOf("optimism")?.data("points", this.shownOf(this.lossRows())).runAsync();
    this.viewOf("stop_map")?.data("cells", this.cells()).runAsync();
    this.rows = PAGE;
    this.showRows();
    this.showTables();
    const clear = this.article.querySelector(".clear");
    clear.disabled = this.selected === null && this.matching === null;
  }

  match(text) {
    // The points whose words hold all words of a text.
    const wanted = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.matching = null;
    if (wanted.length) {
      this.matching = new Set();
      for (let index = 0; index < this.count; index++) {
        const parts = [`point ${this.value("number", index)}`, this.value("policy_text", index), this.value("setting", index), this.network(index), this.state(index)];
        const words = parts.join(" ").toLowerCase();
        if (wanted.every((word) => words.includes(word))) this.matching.add(index);
      }
    }
    this.filter();
  }

  viewOf(name) {
    return views.get(this.article.querySelector(`[data-figure="${name}"] .chart`));
  }

  redraw(name) {
    if (name === "front") return this.drawFront();
    return this.drawLinked(name, this.article.querySelector(`[data-figure="${name}"] .chart`));
  }

  clear() {
    const brushed = this.brushed;
    this.brushed = null;
    this.selected = null;
    this.article.querySelector(".words-filter").value = "";
    this.match("");
    if (brushed) this.redraw(brushed);
  }

  // The plots that follow the points.

  async drawLinked(name, place) {
    const spec = this.study.figures[name];
    const datasets = {
      stops: () => ({ stops: this.stops() }),
      stop_map: () => ({ cells: this.cells() }),
      optimism: () => this.optimism(),
    }[name];
    const view = await drawChart(place, spec, () => ({ datasets: datasets() }));
    if (name === "optimism") {
      this.listen(view, name, (index) => this.losses(index));
      view.addEventListener("click", (event, item) => {
        if (item && item.datum && isNumber(item.datum.i)) this.fix(item.datum.i);
      });
    }
  }

  stops() {
    const stops = this.points.stops[this.fixed] || [];
    const right = this.points.right[this.fixed] || [];
    const all = this.points.networks[this.network(this.fixed)]?.accuracy_all || [];
    return stops.map((share, place) => ({
      exit: place + 1,
      share: share / 10000,
      right: percent(right[place] === null ? null : right[place] / 10000, 1) || "no image stops here",
      all: percent(all[place], 1),
    }));
  }

  mapped() {
    // The points of the map, from cheap to dear.
    const own = [];
    for (let index = 0; index < this.count; index++) if (this.points.stops[index] && this.isShown(index)) own.push(index);
    const step = Math.max(1, own.length / 60);
    return Array.from({ length: Math.ceil(own.length / step) }, (_, rank) => own[Math.floor(rank * step)]);
  }

  cells() {
    const rows = [];
    for (const [rank, index] of this.mapped().entries()) {
      this.points.stops[index].forEach((share, place) => {
        if (share) rows.push({ rank, exit: place + 1, share: share / 10000, number: this.value("number", index) });
      });
    }
    return rows;
  }

  // The tables beside the plots that follow the points.

  showTables() {
    const first = this.points.stops.find(Boolean) || [];
    const exits = first.map((_, place) => (place + 1 === first.length ? "End" : `Exit ${place + 1}`));
    const shares = (index) => this.points.stops[index].map((share) => percent(share / 10000, 1));
    const points = (digits) => (value) => value.toFixed(digits).replace("-", "\u2212");
    this.fill("stops", ["Exit", "Images that stop", "Right", "Right of all images"], this.stops().map((row) => [String(row.exit), percent(row.share, 1), row.right, row.all]));
    this.fill("stop_map", ["Point", ...exits], this.mapped().map((index) => [String(this.value("number", index)), ...shares(index)]));
    const losses = this.lossRows().filter((row) => this.isShown(row.i));
    this.fill("optimism", ["Point", "Policy and setting", "Points lost on validation", "Points lost on test"],
      losses.map((row) => [String(row.number), row.policy, points(2)(row.lost), points(2)(row.test_lost)]));
  }

  fill(name, heads, rows) {
    const box = this.article.querySelector(`[data-table="${name}"]`);
    if (!box) return;
    box.querySelector("thead").replaceChildren(element("tr", {}, ...heads.map((head, place) => element("th", { scope: "col", class: place ? "num" : null }, head))));
    const shown = rows.slice(0, PAGE * 2).map((row) => element("tr", {}, ...row.map((text, place) => element("td", { class: place ? "num" : null }, text))));
    box.querySelector("tbody").replaceChildren(...shown);
    box.querySelector(".note").textContent = rows.length > shown.length ? `The first ${shown.length} of ${rows.length} rows.` : "";
  }

  losses(index) {
    const test = this.value("test_accuracy", index);
    if (!isNumber(test)) return null;
    return {
      lost: (this.value("classic_accuracy", index) - this.value("accuracy", index)) * 100,
      test_lost: (this.value("test_classic_accuracy", index) - test) * 100,
    };
  }

  lossRows() {
    const rows = [];
    for (let index = 0; index < this.count; index++) {
      const losses = this.losses(index);
      if (!losses || losses.lost > 10) continue; // the useful part: at most 10 points lost
      rows.push({
        i: index,
        ...losses,
        series: this.value("policy_text", index),
        policy: `${this.value("policy_text", index)}: ${this.value("setting", index) || "no setting"}`,
        number: this.value("number", index),
      });
    }
    return rows;
  }

  optimism() {
    const rows = this.lossRows();
    const ends = rows.flatMap((row) => [row.lost, row.test_lost]);
    const [low, high] = [ends.reduce((a, b) => Math.min(a, b), 0), ends.reduce((a, b) => Math.max(a, b), 0)];
    return { points: this.shownOf(rows), equal: [low, high].map((value) => ({ lost: value, test_lost: value })) };
  }

  // The fixed point.

  fix(index) {
    this.fixed = index;
    this.showFixed();
    this.viewOf("front")?.data("fixed", this.fixedRow()).runAsync();
    this.viewOf("stops")?.data("stops", this.stops()).runAsync();
    this.showTables();
    for (const row of this.article.querySelectorAll(".points tbody tr")) {
      row.setAttribute("aria-selected", String(Number(row.dataset.index) === index));
    }
  }

  step(event) {
    const ways = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
    const way = ways[event.key];
    if (!way) return;
    event.preventDefault();
    // Along the axis that is shown: a point that is dearer in FLOPs may need less energy.
    const place = (index) => [this.x(index), this.value("accuracy", index), index];
    const before = (one, other) => one.map((value, key) => value - other[key]).find((gap) => gap !== 0) || 0;
    const here = place(this.fixed);
    const ahead = [...Array(this.count).keys()]
      .filter((index) => this.points.on_front[index] && this.isShown(index) && this.x(index) !== null)
      .map(place)
      .filter((one) => before(one, here) * way > 0)
      .sort((one, other) => before(one, other) * way);
    if (ahead.length) this.fix(ahead[0][2]);
  }

  controls() {
    const names = { flops: "FLOPs", energy: "energy", latency: "latency" };
    const group = this.article.querySelector(".costs");
    for (const cost of Object.keys(this.points.axes)) {
      const radio = element("input", { type: "radio", name: `cost-${this.article.id}`, value: cost });
      radio.checked = cost === this.cost;
      radio.addEventListener("change", () => {
        this.cost = cost;
        this.brushed = null;
        this.selected = null;
        this.filter();
        this.drawFront();
      });
      group.append(element("label", {}, radio, names[cost]));
    }
    this.article.querySelector(".limits").addEventListener("change", (event) => {
      this.viewOf("front")?.signal("limits", event.target.checked).runAsync();
    });
    this.article.querySelector(".everything").addEventListener("change", () => {
      const view = this.viewOf("front");
      if (!view) return;
      for (const [name, value] of Object.entries({ ...this.window(), ...this.labelPlace() })) view.signal(name, value);
      view.runAsync();
      this.showCount();
    });
    this.article.querySelector(".words-filter").addEventListener("input", (event) => this.match(event.target.value));
    this.article.querySelector(".clear").addEventListener("click", () => this.clear());
  }
}
