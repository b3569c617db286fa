// Draws each curve of a model's page from the JSON beside it, and again when that changes.
"use strict";

(() => {
  const compact = new Intl.NumberFormat("en-GB", { notation: "compact", maximumFractionDigits: 1 });
  const whole = new Intl.NumberFormat("en-GB");
  const three = new Intl.NumberFormat("en-GB", { maximumSignificantDigits: 3 });
  const percent = new Intl.NumberFormat("en-GB", { style: "percent", maximumFractionDigits: 1 });
  const HEIGHT = 240;
  const charts = new Map();

  class Chart {
    constructor(box) {
      this.box = box;
      this.name = box.dataset.chart;
      this.format = this.name === "accuracy" ? percent : three;
      this.read();
      this.draw();
      this.watcher = new ResizeObserver(() => this.fit());
      this.watcher.observe(box);
    }

    // Take the columns from the page; say whether they are new.
    read() {
      const text = document.getElementById(`${this.name}-data`).textContent;
      if (text === this.text) return false;
      this.text = text;
      this.columns = JSON.parse(text);
      return true;
    }

    draw() {
      this.plot?.destroy();
      this.plot = new uPlot(this.options(), this.data(), this.box);
    }

    update() {
      if (this.read()) this.plot.setData(this.data());
      this.tell(null);
    }

    fit() {
      const width = this.box.clientWidth;
      if (width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
    }

    end() {
      this.watcher.disconnect();
      this.plot.destroy();
    }

    data() {
      return [this.columns.versions, this.columns.values];
    }

    options() {
      const style = getComputedStyle(this.box);
      const colour = (name) => style.getPropertyValue(name).trim();
      const font = `12px ${style.fontFamily}`;
      const axis = { stroke: colour("--quiet"), font, ticks: { show: false } };
      const grid = { stroke: colour("--line"), width: 1 };
      return {
        width: this.box.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 8 } },
        scales: { x: { time: false }, y: { range: (_, low, high) => this.range(low, high) } },
        series: [{}, {
          stroke: colour(`--${this.name}`),
          fill: colour(`--${this.name}-under`),
          width: 2,
          points: { show: this.columns.versions.length < 40, size: 5, fill: colour(`--${this.name}`) },
        }],
        axes: [
          { ...axis, grid: { show: false }, size: 46, space: 64, incrs: steps(), values: (_, at) => this.ticks(at) },
          { ...axis, grid, size: 48, values: (_, at) => at.map((value) => this.format.format(value)) },
        ],
        hooks: { setCursor: [(plot) => this.tell(plot.cursor.idx)] },
      };
    }

    range(low, high) {
      if (low === null) return [0, 1];
      const room = (high - low || Math.abs(high) || 1) * 0.08;
      const most = this.name === "accuracy" ? 1 : Infinity;
      return [low >= 0 ? Math.max(0, low - room) : low - room, Math.min(most, high + room)];
    }

    // Two lines: the version, and the records merged by then.
    ticks(at) {
      return at.map((version) => {
        const index = this.columns.versions.indexOf(version);
        return index < 0 ? `${version}` : `${version}\n${compact.format(this.columns.records[index])}`;
      });
    }

    // Say the point under the pointer in words, or else the newest.
    tell(index) {
      const at = index ?? this.columns.versions.length - 1;
      const { versions, records, values } = this.columns;
      const place = this.box.parentElement.querySelector(".readout");
      place.textContent =
        `version ${versions[at]}: ${this.format.format(values[at])} after ${whole.format(records[at])} records`;
    }
  }

  // Versions are whole numbers.
  function steps() {
    return [1, 10, 100, 1e3, 1e4, 1e5, 1e6].flatMap((ten) => [ten, 2 * ten, 5 * ten]);
  }

  function refresh() {
    for (const [box, chart] of charts) {
      if (!box.isConnected) {
        chart.end();
        charts.delete(box);
      }
    }
    for (const box of document.querySelectorAll("[data-chart]")) {
      if (charts.has(box)) charts.get(box).update();
      else charts.set(box, new Chart(box));
    }
  }

  document.documentElement.classList.add("can-draw");
  refresh();
  document.addEventListener("htmx:after:swap", refresh);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const chart of charts.values()) chart.draw();
  });
})();
