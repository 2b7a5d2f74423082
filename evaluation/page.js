// Reading a curve: the values nearest to the pointer, written into the chart's legend.
for (const figure of document.querySelectorAll("figure.chart")) {
  const svg = figure.querySelector("svg");
  const { x0, x1, left, right, name, series } = JSON.parse(figure.dataset.curves);
  const cursor = svg.querySelector(".cursor");
  const at = figure.querySelector(".at");
  const values = figure.querySelectorAll(".legend output");
  const nearest = (xs, x) =>
    xs.reduce((best, value, i) => (Math.abs(value - x) < Math.abs(xs[best] - x) ? i : best), 0);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const x = x0 + ((place - left) / (right - left)) * (x1 - x0);
    const step = series[0].x[nearest(series[0].x, x)];
    const line = left + ((step - x0) / (x1 - x0 || 1)) * (right - left);
    cursor.setAttribute("x1", line);
    cursor.setAttribute("x2", line);
    cursor.style.visibility = "visible";
    at.textContent = `${name} ${step.toLocaleString("en")}`;
    series.forEach((one, i) => (values[i].textContent = one.y[nearest(one.x, step)]));
  });
  svg.addEventListener("pointerleave", () => {
    cursor.style.visibility = "hidden";
    at.textContent = "";
    values.forEach((value) => (value.textContent = value.dataset.last));
  });
}
