// Says the numbers under the pointer, or at the arrow keys, below each chart.
for (const figure of document.querySelectorAll("figure[data-series]")) {
  const series = JSON.parse(figure.dataset.series);
  const steps = [...new Set(series.flatMap(([, x]) => x))].sort((a, b) => a - b);
  const said = figure.querySelector("output");
  const nearest = (x, wanted) => x.reduce((best, value, n) => Math.abs(value - wanted) < Math.abs(x[best] - wanted) ? n : best, 0);
  let at = -1;
  const say = (wanted) => {
    at = nearest(steps, wanted);
    const parts = series.filter(([, x]) => x.length).map(([name, x, y]) => {
      const n = nearest(x, wanted);
      return `${name} ${y[n] ?? "no value"}` + (x[n] === steps[at] ? "" : ` (at ${x[n]})`);
    });
    said.textContent = `${figure.dataset.x} ${steps[at]}: ${parts.join(", ")}`;
  };
  for (const picture of figure.querySelectorAll("[data-span]")) {
    const [left, right, low, high] = picture.dataset.span.split(" ").map(Number);
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      say(low + ((event.clientX - box.left) / box.width - left) / (right - left) * (high - low));
    });
  }
  figure.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    say(steps[Math.min(steps.length - 1, Math.max(0, at + move))]);
  });
}
