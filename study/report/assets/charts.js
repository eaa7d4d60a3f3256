// Draws the charts: those in sight first, the others when the page is at rest.

function letThroughBrushes(spec) {
  // The mark of a brush lies above the points: without this, a point in a brush could be neither hovered nor clicked.
  for (const mark of spec.marks || []) {
    if (/brush$/i.test(mark.name || "")) mark.interactive = false;
    letThroughBrushes(mark);
  }
  return spec;
}

async function drawChart(place, template, fill) {
  views.get(place)?.finalize();
  views.delete(place);
  const spec = structuredClone(template);
  const { datasets = {}, parameters = {} } = fill ? fill() : {};
  Object.assign(parameters, themeColors());
  if (spec.datasets) Object.assign(spec.datasets, datasets);
  // Legends do not wrap by themselves.
  spec.config.legend.columns = Math.max(1, Math.floor((place.offsetWidth - 70) / 165));
  for (const one of spec.params) if (one.name in parameters) one.value = parameters[one.name];
  const many = Object.keys(spec.datasets || {}).includes("points");
  const result = await vegaEmbed(place, spec, {
    actions: false,
    ast: true, // the expressions are interpreted: the page's security policy forbids to evaluate text
    renderer: many ? "canvas" : "svg",
    tooltip: { theme: "report" },
    patch: letThroughBrushes,
  });
  views.set(place, result.view);
  return result.view;
}

class Painter {
  // Each chart is drawn once, when its place comes into sight or the page has nothing else to do.
  constructor() {
    this.waiting = new Map();
    this.watcher = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) this.draw(entry.target);
    }, { rootMargin: "300px" });
  }

  add(place, draw) {
    this.waiting.set(place, draw);
    this.watcher.observe(place);
  }

  async draw(place) {
    const draw = this.waiting.get(place);
    if (!draw || !place.offsetWidth) return;
    this.waiting.delete(place);
    this.watcher.unobserve(place);
    try {
      await draw();
    } catch (error) {
      console.error(error);
      place.replaceChildren(element("p", { class: "lack" }, "This plot cannot be drawn; its table has the numbers."));
    }
  }

  end() {
    this.watcher.disconnect();
    this.waiting.clear();
  }

  rest() {
    const next = () => {
      const place = [...this.waiting.keys()].find((one) => one.offsetWidth);
      if (place) this.draw(place).then(later);
    };
    const later = () => (window.requestIdleCallback ? requestIdleCallback(next, { timeout: 500 }) : setTimeout(next, 50));
    later();
  }
}
