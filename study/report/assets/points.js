// The operating points of a study in plots: the front chart, what is filtered, and the fixed point.

class Explorer extends PointTable {
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

  async drawFront() {
    const view = await drawChart(this.place, this.study.figures[`front_${this.cost}`], () => ({
      datasets: { points: this.shownOf(this.frontRows()), bounds: this.axis().bounds, fixed: this.fixedRow() },
      parameters: { ...this.window(), limits: this.article.querySelector(".limits").checked, dot: this.points.front > 300 ? 26 : 46 },
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
    const clear = this.article.querySelector(".clear");
    clear.disabled = this.selected === null;
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
    this.filter();
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

  cells() {
    const own = [];
    for (let index = 0; index < this.count; index++) if (this.points.stops[index] && this.isShown(index)) own.push(index);
    const step = Math.max(1, own.length / 60);
    const rows = [];
    for (let rank = 0; rank * step < own.length; rank++) {
      const index = own[Math.floor(rank * step)];
      this.points.stops[index].forEach((share, place) => {
        if (share) rows.push({ rank, exit: place + 1, share: share / 10000, number: this.value("number", index) });
      });
    }
    return rows;
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
    for (const row of this.article.querySelectorAll(".points tbody tr")) {
      row.setAttribute("aria-selected", String(Number(row.dataset.index) === index));
    }
  }

  step(event) {
    const ways = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
    const way = ways[event.key];
    if (!way) return;
    event.preventDefault();
    for (let index = this.fixed + way; index >= 0 && index < this.count; index += way) {
      if (this.points.on_front[index] && this.isShown(index)) return this.fix(index);
    }
  }

  facts(index) {
    const facts = [["Policy", this.value("policy_text", index)], ["Network", this.network(index)]];
    const named = { beta: "beta", start_layer: "first exit tried", max_jump: "longest jump", overshoot: "beyond the last exit",
      statistic: "threshold statistic", price: "price", criterion: "confidence", dvfs: "frequency rule" };
    const [low, high] = [this.value("beta_low", index), this.value("beta_high", index)];
    for (const [name, words] of Object.entries(named)) {
      const value = this.value(name, index);
      if (value !== null && value !== "none" && value !== "logit") facts.push([words, isNumber(value) ? fourDigits(value) : value]);
    }
    if (isNumber(low) && isNumber(high) && fourDigits(low) !== fourDigits(high)) facts.push(["same for beta", `${fourDigits(low)} to ${fourDigits(high)}`]);
    const lost = (this.points.reference - this.value("accuracy", index)) * 100;
    facts.push(["Test accuracy", this.testText(index)]);
    facts.push(["Validation accuracy", `${percent(this.value("accuracy", index), 2)} (${lost.toFixed(2)} points lost)`]);
    for (const [cost, axis] of Object.entries(this.points.axes)) {
      const value = this.x(index, cost);
      const names = { flops: "FLOPs", energy: "Energy", latency: "Mean latency" };
      if (value !== null) facts.push([names[cost], `${fourDigits(value)} ${axis.unit} (${percent(value / axis.classic, 1)})`]);
    }
    return facts;
  }

  showFixed() {
    const index = this.fixed;
    const panel = this.article.querySelector(".fixed");
    const list = element("dl");
    for (const [name, value] of this.facts(index)) list.append(element("dt", {}, name), element("dd", {}, String(value)));
    const parts = [
      element("h3", {}, `Point ${this.value("number", index)}`),
      element("div", { class: "soft" }, this.state(index)),
      list,
    ];
    if (this.points.on_front[index]) {
      const [before, behind] = this.study.evaluate;
      const text = `${before} ${this.value("number", index)}${behind}`;
      const command = element("div", { class: "command" }, element("code", {}, text), copyButton());
      if (this.study.lacks_weights) parts.push(element("p", { class: "note" }, this.study.lacks_weights));
      parts.push(command, this.layers(index));
    } else {
      parts.push(element("p", { class: "note" }, "Only points of the front have a command and statistics of each layer."));
    }
    panel.replaceChildren(...parts);
  }

  layers(index) {
    const stops = this.points.stops[index];
    if (!stops) return element("p", { class: "note" }, "The statistics of each layer of this point are not in this page.");
    const right = this.points.right[index];
    const network = this.points.networks[this.network(index)] || {};
    const thresholds = this.points.thresholds[`${this.network(index)} ${this.value("statistic", index)}`] || [];
    const heads = [
      ["Exit", "The exit; the last one is the classifier"],
      ["Stop", "Share of the test images that stop here"],
      ["Right", "Accuracy of the images that stop here"],
      ["All", "Accuracy of the exit on all test images"],
    ];
    if (thresholds.length) heads.push(["\u03b8", "Threshold of the exit"]);
    const head = element("tr", {}, ...heads.map(([name, help]) => element("th", { scope: "col", class: "num" }, element("abbr", { title: help }, name))));
    const rows = stops.map((share, place) => element("tr", {}, ...[
      place + 1 === stops.length ? "end" : place + 1,
      percent(share / 10000, 1),
      right[place] === null ? "" : percent(right[place] / 10000, 1),
      percent(network.accuracy_all?.[place], 1),
      ...(thresholds.length ? [fourDigits(thresholds[place])] : []),
    ].map((text) => element("td", { class: "num" }, String(text)))));
    const table = element("table", {}, element("caption", {}, "Statistics of each layer on the test images"),
      element("thead", {}, head), element("tbody", {}, ...rows));
    const fold = element("details", { class: "beside" }, element("summary", {}, "Statistics of each layer"),
      element("div", { class: "scroll layers", tabindex: "0", role: "region", "aria-label": "Statistics of each layer" }, table));
    fold.open = true;
    return fold;
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
      for (const [name, value] of Object.entries(this.window())) view.signal(name, value);
      view.runAsync();
    });
    this.article.querySelector(".clear").addEventListener("click", () => this.clear());
  }
}
