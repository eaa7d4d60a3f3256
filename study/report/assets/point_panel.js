// The panel of the fixed point: its settings, its costs, its rule and its statistics of each layer.

class PointPanel extends PointTable {
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
    facts.push(["Validation accuracy", `${percent(this.value("accuracy", index), 2)} (${lost.toFixed(2).replace("-", "\u2212")} points lost)`]);
    for (const [cost, axis] of Object.entries(this.points.axes)) {
      const value = this.x(index, cost);
      const names = { flops: "FLOPs", energy: "Energy", latency: "Mean latency" };
      if (value !== null) facts.push([names[cost], `${fourDigits(value)} ${axis.unit} (${percent(value / axis.classic, 1)})`]);
    }
    return facts;
  }

  // The rule of a point, and its statistics of each layer.

  from(index, place) {
    // The score from which an image stops at an exit, as text.
    const rule = this.points.rule?.[index] || {};
    if (rule.tables) return rule.tables[place + 1] || "";
    let value = rule.from ? rule.from[place] : null;
    if (isNumber(rule.beta)) {
      const tried = rule.exits.length ? rule.exits.includes(place + 1) : place + 1 >= rule.start;
      value = tried ? rule.beta : null;
    }
    if (!isNumber(value)) return "";
    return fourDigits(value);
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
      parts.push(command);
      if (this.value("says", index)) parts.push(element("p", { class: "rule" }, this.value("says", index)));
      parts.push(this.layers(index));
    } else {
      parts.push(element("p", { class: "note" }, "Only points of the front have a command and statistics of each layer."));
    }
    panel.replaceChildren(...parts);
  }

  layers(index) {
    const right = this.points.right[index] || [];
    const network = this.points.networks[this.network(index)] || {};
    const stops = this.points.stops[index];
    const rule = this.points.rule?.[index] || {};
    const thresholds = (rule.theta && this.points.thresholds[`${this.network(index)} ${this.value("statistic", index)}`]) || [];
    const count = stops?.length || network.accuracy_all?.length || (rule.from || []).length + 1;
    if (count < 2) return element("p", { class: "note" }, "The statistics of each layer of this point are not in this page.");
    const places = [...Array(count).keys()];
    const columns = [
      ["Exit", "The exit; the last one is the classifier", (place) => (place + 1 === count ? "end" : String(place + 1))],
      ["Stop", "Share of the test images that stop here", (place) => percent(stops?.[place] / 10000, 1)],
      ["Right", "Accuracy of the images that stop here", (place) => (isNumber(right[place]) ? percent(right[place] / 10000, 1) : "")],
      ["All", "Accuracy of the exit on all test images", (place) => percent(network.accuracy_all?.[place], 1)],
      [rule.tables ? "Rule" : "From", "The score from which an image stops here; none where the exit is not tried", (place) => (place + 1 < count ? this.from(index, place) : "")],
      ["\u03b8", "Threshold of the exit, which the score is divided by", (place) => fourDigits(thresholds[place])],
    ].filter(([, , text]) => places.some((place) => text(place)));
    const head = element("tr", {}, ...columns.map(([name, help]) => element("th", { scope: "col", class: name === "Rule" ? "steps" : "num" }, element("abbr", { title: help }, name))));
    const rows = places.map((place) => element("tr", {}, ...columns.map(([name, , text]) => element("td", { class: name === "Rule" ? "steps" : "num" }, text(place)))));
    const table = element("table", {}, element("caption", {}, "Statistics of each layer on the test images"),
      element("thead", {}, head), element("tbody", {}, ...rows));
    const fold = element("details", { class: "beside" }, element("summary", {}, "Statistics of each layer"),
      element("div", { class: "scroll layers", tabindex: "0", role: "region", "aria-label": "Statistics of each layer" }, table));
    fold.open = true;
    return fold;
  }
}
