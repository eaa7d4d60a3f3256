"use strict";
// Light and dark, for the page and for the charts, whose colours are parameters.

const views = new Map(); // element of a chart -> its Vega view

function themeColors() {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  return { ink: color("--ink"), faint: color("--faint"), paper: color("--paper") };
}

function paintCharts(colors) {
  for (const view of views.values()) {
    for (const [name, value] of Object.entries(colors)) view.signal(name, value);
    view.run();
  }
}

function setTheme(dark) {
  document.documentElement.classList.toggle("dark", dark);
  const button = document.querySelector("button.theme");
  button.textContent = dark ? "Light" : "Dark";
  button.setAttribute("aria-label", dark ? "Light colours" : "Dark colours");
  button.setAttribute("aria-pressed", String(dark));
  paintCharts(themeColors());
}

function startTheme() {
  const preferred = matchMedia("(prefers-color-scheme: dark)");
  setTheme(preferred.matches);
  preferred.addEventListener("change", (event) => setTheme(event.matches));
  const isDark = () => document.documentElement.classList.contains("dark");
  document.querySelector("button.theme").addEventListener("click", () => setTheme(!isDark()));
  addEventListener("beforeprint", () => paintCharts({ ink: "#000", faint: "#bbb", paper: "#fff" }));
  addEventListener("afterprint", () => paintCharts(themeColors()));
}
