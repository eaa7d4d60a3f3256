// Follows a running study: asks the program for its state, and takes its page over when the tables have changed.

const PAUSE = 2000; // ms between two questions
let version = document.documentElement.dataset.version;

function showState(state) {
  const live = document.querySelector(".live");
  const now = live.querySelector(".now");
  if (now.textContent !== state.now) now.textContent = state.now; // a screen reader says what changes
  const progress = live.querySelector("progress");
  progress.hidden = !isNumber(state.share);
  if (isNumber(state.share)) progress.value = state.share;
  const facts = (state.facts || []).map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text)));
  live.querySelector("dl").replaceChildren(...facts);
  live.querySelector(".coming").hidden = !state.coming;
  live.querySelector(".coming").textContent = state.coming || "";
  const lines = [state.problem, ...(state.errors || [])].filter(Boolean);
  live.querySelector(".troubles").replaceChildren(...lines.map((line) => element("p", { class: "missing" }, line)));
}

// What the reader has done to the page, so that the next page is shown alike.

function pathOf(node) {
  // The nearest element with an id, and the way down from it.
  const way = [];
  for (; node && !node.id; node = node.parentElement) way.unshift([...node.parentElement.children].indexOf(node));
  return node ? { id: node.id, way } : null;
}

function atPath(path) {
  return path && path.way.reduce((node, place) => node?.children[place], document.getElementById(path.id));
}

function keepView() {
  const charts = new Map();
  for (const figure of document.querySelectorAll("article figure[data-figure], #together-together figure")) {
    charts.set(figure.closest("[id]").id + figure.dataset.figure, figure.querySelector(".chart").offsetHeight);
  }
  const main = document.getElementById("main");
  return {
    charts,
    scroll: [scrollX, scrollY],
    tab: document.querySelector('[role="tab"][aria-selected="true"]')?.id,
    together: main.querySelector("#together-together .everything")?.checked,
    focus: main.contains(document.activeElement) ? pathOf(document.activeElement) : null,
    open: [...main.querySelectorAll("details")].map((one) => [pathOf(one), one.open]),
    sorted: [...main.querySelectorAll('table.sortable th:not([aria-sort="none"])')].map((one) => [pathOf(one), one.getAttribute("aria-sort")]),
    explorers: [...shown.explorers].map(([article, one]) => ({
      id: article.id,
      number: one.fixed === one.recommended ? null : one.value("number", one.fixed),
      cost: one.cost,
      sort: one.sort,
      rows: one.rows,
      filter: article.querySelector(".words-filter").value,
      boxes: [".limits", ".everything"].map((name) => [name, article.querySelector(name).checked]),
    })),
  };
}

function restoreView(kept) {
  document.getElementById(kept.tab)?.click();
  for (const { id, number, cost, sort, rows, filter, boxes } of kept.explorers) {
    const article = document.getElementById(id);
    const explorer = shown.explorers.get(article);
    if (!explorer) continue;
    for (const [name, checked] of boxes) article.querySelector(name).checked = checked;
    const radio = [...article.querySelectorAll(".costs input")].find((one) => one.value === cost);
    if (radio) {
      radio.checked = true;
      explorer.cost = cost;
    }
    article.querySelector(".words-filter").value = filter;
    explorer.match(filter);
    Object.assign(explorer, { sort, rows });
    explorer.showRows();
    for (let index = 0; number !== null && index < explorer.count; index++) {
      if (explorer.value("number", index) === number) explorer.fix(index);
    }
  }
  const together = document.querySelector("#together-together .everything");
  if (together) together.checked = kept.together;
  for (const [path, open] of kept.open) {
    const fold = atPath(path);
    if (fold?.tagName === "DETAILS") fold.open = open;
  }
  for (const [path, order] of kept.sorted) {
    const button = atPath(path)?.querySelector("button");
    for (let times = order === "ascending" ? 1 : 2; button && times > 0; times--) button.click();
  }
  for (const figure of document.querySelectorAll("figure[data-figure]")) {
    const height = kept.charts.get(figure.closest("[id]").id + figure.dataset.figure);
    if (height) figure.querySelector(".chart").style.minHeight = `${height}px`; // until it is drawn: nothing jumps
  }
  scrollTo({ left: kept.scroll[0], top: kept.scroll[1], behavior: "instant" });
  atPath(kept.focus)?.focus({ preventScroll: true });
}

function isBusy() {
  // Points are selected by a brush, or text by the mouse: the reader decides when that goes.
  const selection = getSelection();
  const text = !selection.isCollapsed && document.getElementById("main").contains(selection.anchorNode);
  return text || [...shown.explorers.values()].some((one) => one.selected !== null);
}

async function takeOver(wanted) {
  const answer = await fetch("/", { cache: "no-store" });
  if (!answer.ok) return;
  const next = new DOMParser().parseFromString(await answer.text(), "text/html");
  const kept = keepView();
  shown.painter.end();
  document.title = next.title;
  document.querySelector("h1").textContent = next.querySelector("h1").textContent;
  document.querySelector("header .tabs")?.remove();
  const tabs = next.querySelector("header .tabs");
  if (tabs) document.querySelector("header").append(tabs);
  for (const part of ["main", "footer", "#report-data"]) document.querySelector(part).replaceWith(next.querySelector(part));
  for (const [place, view] of views) {
    if (place.isConnected) continue;
    view.finalize();
    views.delete(place);
  }
  const own = next.documentElement.dataset.version;
  version = own === version ? wanted : own; // the page of before comes again where none can be made
  showReport();
  restoreView(kept);
}

const fresh = document.querySelector(".fresh");

let looking = false;

async function look(byHand) {
  if (looking) return;
  looking = true;
  await askAndShow(byHand).catch(console.error);
  looking = false;
}

async function askAndShow(byHand) {
  let state;
  try {
    const answer = await fetch("/state", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    state = await answer.json();
  } catch {
    const now = "predictive-exit watch has ended, or does not answer: this page shows what it told last.";
    return showState({ now });
  }
  showState(state);
  const isNew = state.version !== version;
  fresh.hidden = !isNew || byHand || !isBusy();
  if (isNew && (byHand || !isBusy())) await takeOver(state.version);
}

async function follow() {
  if (!document.hidden) await look(false);
  setTimeout(follow, PAUSE);
}

fresh.addEventListener("click", () => look(true));
follow();
