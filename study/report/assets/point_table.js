// The operating points of a study in words and numbers, and their table.

const PAGE = 100; // rows of the table of points that are shown at once

function cell(column, index) {
  if (column === undefined) return null;
  if (Array.isArray(column)) return column[index];
  const code = column.codes[index];
  return code < 0 ? null : column.values[code];
}

class PointTable {
  constructor(article, study) {
    this.article = article;
    this.points = study.points;
    this.study = study;
    this.count = this.points.shown;
    this.recommended = this.points.recommended.indexOf(1);
    this.fixed = this.recommended >= 0 ? this.recommended : 0;
    this.selected = null; // the points in the brush as a set, or null for all
    this.matching = null; // the points that the words of the filter match, or null for all
    this.sort = { key: "accuracy", rising: false };
    this.rows = PAGE;
  }

  value(name, index) {
    return cell(this.points[name], index);
  }

  network(index) {
    return this.value("network", index);
  }

  state(index) {
    if (this.points.recommended[index]) return "recommended";
    if (isNumber(this.value("certified_drop", index))) return "certified, on the front";
    if (this.points.on_front[index]) return "on the front";
    const broken = this.value("broken", index);
    return broken ? `breaks ${broken}` : "beaten by another point";
  }

  testText(index) {
    const test = this.value("test_accuracy", index);
    if (!isNumber(test)) return "not evaluated";
    const ends = ["test_accuracy_low", "test_accuracy_high"].map((name) => (this.value(name, index) * 100).toFixed(1));
    return `${percent(test, 2)} [${ends[0]} to ${ends[1]}]`;
  }

  axis(cost = this.cost) {
    return this.points.axes[cost];
  }

  x(index, cost = this.cost) {
    const value = this.value(cost, index);
    return isNumber(value) ? value / this.axis(cost).size : null;
  }

  isShown(index) {
    return (this.selected === null || this.selected.has(index)) && (this.matching === null || this.matching.has(index));
  }

  // The table of points.

  columns() {
    const columns = [
      ["number", "Point", (i) => this.value("number", i), (v) => String(v)],
      ["policy", "Policy", (i) => this.value("policy_text", i)],
      ["setting", "Setting", (i) => this.value("setting", i)],
      ["network", "Network", (i) => this.network(i)],
      ["accuracy", "Validation", (i) => this.value("accuracy", i), (v) => percent(v, 2)],
      ["test", "Test", (i) => this.value("test_accuracy", i), (v, i) => (isNumber(v) ? this.testText(i) : "")],
    ];
    const names = { flops: "", energy: "Energy, ", latency: "Latency, " };
    for (const [cost, axis] of Object.entries(this.points.axes)) {
      const form = (value) => (isNumber(value) ? `${fourDigits(value)} (${percent(value / axis.classic, 1)})` : "");
      columns.push([cost, `${names[cost]}${axis.unit} (of classic)`, (i) => this.x(i, cost), form]);
    }
    columns.push(["state", "State", (i) => this.state(i)]);
    return columns;
  }

  table() {
    const box = this.article.querySelector(".points");
    const heads = this.columns().map(([key, name, , form]) => {
      const button = element("button", { type: "button" }, name);
      const head = element("th", { scope: "col", class: form ? "num" : null, "data-key": key }, button);
      button.addEventListener("click", () => {
        this.sort = { key, rising: this.sort.key === key ? !this.sort.rising : true };
        this.showRows();
      });
      return head;
    });
    box.querySelector("thead").append(element("tr", {}, ...heads));
    const body = box.querySelector("tbody");
    body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row) this.fix(Number(row.dataset.index));
    });
    body.addEventListener("keydown", (event) => this.walk(event));
    const more = this.article.querySelector(".more");
    more.addEventListener("click", () => {
      this.rows += PAGE * 5;
      this.showRows();
    });
    this.showRows();
  }

  showRows() {
    const columns = this.columns();
    const sorted = columns.find(([key]) => key === this.sort.key);
    const indices = [];
    for (let index = 0; index < this.count; index++) if (this.isShown(index)) indices.push(index);
    const keyed = indices.map((index) => [sorted[2](index), index]);
    keyed.sort(([one], [other]) => (this.sort.rising ? compareValues(one, other) : compareValues(other, one)));
    const shown = keyed.slice(0, this.rows).map(([, index], place) => this.row(columns, index, place));
    this.article.querySelector(".points tbody").replaceChildren(...shown);
    for (const head of this.article.querySelectorAll(".points th")) {
      const own = head.dataset.key === this.sort.key;
      head.setAttribute("aria-sort", own ? (this.sort.rising ? "ascending" : "descending") : "none");
    }
    this.article.querySelector(".more").hidden = indices.length <= this.rows;
    this.showCount();
  }

  showCount() {
    const { x0, x1, y0, y1 } = this.window();
    let [shown, outside] = [0, 0];
    for (let index = 0; index < this.count; index++) {
      if (!this.isShown(index)) continue;
      const [x, y] = [this.x(index), this.value("accuracy", index)];
      shown += 1;
      if (!(x >= x0 && x <= x1 && y >= y0 && y <= y1)) outside += 1;
    }
    const all = shown === this.count ? "" : ` of ${this.count}`;
    const beyond = outside ? `, ${outside} outside the axes` : "";
    this.article.querySelector(".count").textContent = `${shown}${all} points${beyond}`;
  }

  row(columns, index, place) {
    const cells = columns.map(([key, , value, form]) => {
      const own = value(index);
      return element("td", { class: form ? "num" : key === "setting" ? "wide" : "tight" }, form ? form(own, index) : own ?? "");
    });
    const selected = String(index === this.fixed);
    return element("tr", { "data-index": index, tabindex: place === 0 ? "0" : "-1", "aria-selected": selected }, ...cells);
  }

  walk(event) {
    const row = event.target.closest("tr");
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.fix(Number(row.dataset.index));
      return;
    }
    const next = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling,
      Home: row.parentElement.firstElementChild, End: row.parentElement.lastElementChild }[event.key];
    if (!next) return;
    event.preventDefault();
    row.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}
