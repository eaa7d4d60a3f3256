// Starts the page.

function startTabs(show) {
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  const choose = (chosen) => {
    for (const tab of tabs) {
      const own = tab === chosen;
      tab.setAttribute("aria-selected", String(own));
      tab.tabIndex = own ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !own;
    }
    show();
  };
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => {
      choose(tab);
      document.getElementById(tab.getAttribute("aria-controls")).scrollIntoView(); // other parts may stand between
    });
    tab.addEventListener("keydown", (event) => {
      const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!way) return;
      const next = tabs[(place + way + tabs.length) % tabs.length];
      next.focus();
      choose(next);
    });
  });
}

const shown = { painter: null, explorers: new Map() }; // what the page shows now; a live page shows one after another

function showReport() {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const painter = new Painter();
  const explorers = new Map();
  Object.assign(shown, { painter, explorers });
  for (const article of document.querySelectorAll("article.study")) {
    const study = report.studies[Number(article.dataset.study)];
    for (const figure of article.querySelectorAll("figure[data-figure]")) {
      const name = figure.dataset.figure;
      const spec = study.figures[name];
      const linked = ["front", "stops", "stop_map", "optimism"].includes(name);
      if (spec && !linked) {
        const place = figure.querySelector(".chart");
        painter.add(place, () => drawChart(place, spec));
      }
    }
    if (study.points && article.querySelector(".explorer")) explorers.set(article, new Explorer(article, study, painter));
  }
  for (const figure of document.querySelectorAll("#together-together figure[data-figure]")) {
    const place = figure.querySelector(".chart");
    const spec = report.together[figure.dataset.figure];
    const box = document.querySelector("#together-together .everything");
    const seen = () => spec.usermeta[box.checked ? "all" : "near"];
    painter.add(place, () => drawChart(place, spec, () => ({ parameters: seen() })));
    box.addEventListener("change", () => {
      const view = views.get(place);
      if (!view) return;
      for (const [name, value] of Object.entries(seen())) view.signal(name, value);
      view.runAsync();
    });
  }
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  startTabs(() => painter.rest());
  painter.rest();
}

function startReport() {
  startTheme();
  showReport();
  document.addEventListener("click", (event) => {
    if (event.target.closest('a[href="#words"]')) document.getElementById("words").open = true;
  });
  document.addEventListener("click", (event) => {
    if (event.target.classList.contains("copy")) copyCommand(event.target);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const explorer of shown.explorers.values()) {
      if (explorer.article.hidden) continue;
      explorer.clear();
      if (explorer.recommended >= 0) explorer.fix(explorer.recommended);
    }
  });
}

startReport();
