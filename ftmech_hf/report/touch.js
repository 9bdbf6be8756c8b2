// Tables that are sorted and pictures that are touched. Without it a page says the same, in tables and pictures that stand still.
(() => {
  "use strict";
  const make = (tag, settings, ...inside) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(settings || {})) node.setAttribute(name, value);
    node.append(...inside);
    return node;
  };

  const numberOf = (text) => {
    if (!/^(at least |at most |up to |about |[<>]=? ?)?[-+\u2212]?[.\d]/i.test(text)) return NaN; // a number within words is none
    const found = text.replace(/,(?=\d{3})/g, "").match(/[-+\u2212]?\d+(\.\d+)?(e[-+]?\d+)?/i);
    return found ? parseFloat(found[0].replace("\u2212", "-")) : NaN;
  };

  const sortable = (table) => {
    const body = table.tBodies[0];
    const heads = table.tHead ? [...table.tHead.rows[0].cells] : [];
    if (!body || body.rows.length < 3 || [...body.rows].some((row) => row.cells.length !== heads.length)) return;
    heads.forEach((head, column) => {
      if (!head.textContent.trim()) return;
      const button = make("button", { type: "button", class: "sort" }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        const rows = [...body.rows];
        const texts = new Map(rows.map((row) => [row, row.cells[column].textContent.trim()]));
        const numbers = new Map(rows.map((row) => [row, numberOf(texts.get(row))]));
        const counted = column > 0 && rows.filter((row) => !isNaN(numbers.get(row))).length * 2 > rows.length;
        const compare = (one, other) => {
          if (!counted) return texts.get(one).localeCompare(texts.get(other));
          const [a, b] = [numbers.get(one), numbers.get(other)];
          return isNaN(a) || isNaN(b) ? (isNaN(a) - isNaN(b)) * (up ? 1 : -1) : a - b;
        };
        rows.sort((one, other) => (up ? 1 : -1) * compare(one, other));
        body.append(...rows);
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
      });
    });
  };

  const drawing = (image, number) => {
    const bytes = Uint8Array.from(atob(image.src.split(",")[1]), (letter) => letter.charCodeAt(0));
    const text = new TextDecoder().decode(bytes)
      .replace(/ id="/g, ` id="p${number}-`).replace(/url\(#/g, `url(#p${number}-`).replace(/href="#/g, `href="#p${number}-`);
    const found = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
    const wide = parseFloat(found.getAttribute("width"));
    found.querySelectorAll("metadata").forEach((each) => each.remove());
    found.removeAttribute("width");
    found.removeAttribute("height");
    found.setAttribute("role", "img");
    found.setAttribute("aria-label", image.alt);
    return [document.importNode(found, true), wide];
  };

  const rolled = (image, wide) => {  // a picture without curves stays a picture, and rolls where it would be too small
    const roll = make("div", { class: "roll" });
    image.replaceWith(roll);
    roll.append(image);
    image.style.minWidth = `${Math.round(0.6 * wide)}pt`;
    const reach = () => {
      const rolls = roll.scrollWidth > roll.clientWidth;
      const named = { tabindex: "0", role: "region", "aria-label": "Picture, wider than the page" };
      Object.entries(named).forEach(([name, value]) => rolls ? roll.setAttribute(name, value) : roll.removeAttribute(name));
    };
    new ResizeObserver(reach).observe(roll);
    reach();
  };

  const touchable = (figure, number) => {
    const image = figure.querySelector("img");
    const curves = JSON.parse(figure.dataset.touch).curves.filter((curve) => curve.points.length);
    if (!image || !/^data:image.svg.xml;base64,/.test(image.src)) return;
    const [shown, wide] = drawing(image, number);
    if (!curves.length) return rolled(image, wide);
    const mark = make("span", { class: "mark", "aria-hidden": "true" });
    mark.hidden = true;
    const told = make("p", { class: "value soft", role: "status" }, "Values: point at the picture, or go there with Tab and use the arrow keys.");
    const plot = make("div", { class: "plot", tabindex: "0", role: "group", "aria-label": "Values of the picture: arrow keys" }, shown, mark);
    plot.style.setProperty("--legible", `${Math.round(0.6 * wide)}pt`);  // narrower, its letters cannot be read
    const roll = make("div", { class: "roll" }, plot);
    image.replaceWith(roll);
    const off = new Set();
    let seeds = "all", at = [0, -1];
    const part = (id) => shown.querySelector(`[id="p${number}-${id}"]`);

    const draw = () => curves.forEach((curve) => {
      const show = (id, yes) => { const node = part(id); if (node) node.style.display = yes ? "" : "none"; };
      const here = !off.has(curve);
      curve.ids.forEach((id) => show(id, here && (seeds === "all" || seeds === "mean" || !curve.seeds.length)));
      curve.seeds.forEach((id, seed) => show(id, here && (seeds === "all" || seeds === String(seed))));
    });
    const tell = (place) => {
      at = place;
      const point = curves[place[0]].points[place[1]];
      mark.hidden = false;
      mark.style.left = `${100 * point[0]}%`;
      mark.style.top = `${100 * point[1]}%`;
      told.textContent = point[2];
    };
    const near = (event) => {
      const box = plot.getBoundingClientRect();
      let best = null, least = 60;
      curves.forEach((curve, one) => off.has(curve) || curve.points.forEach((point, other) => {
        const far = Math.hypot(event.clientX - box.left - point[0] * box.width, event.clientY - box.top - point[1] * box.height);
        if (far < least) [best, least] = [[one, other], far];
      }));
      if (best) tell(best);
    };
    plot.addEventListener("pointermove", near);
    plot.addEventListener("pointerdown", near);
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      const left = curves.map((_, one) => one).filter((one) => !off.has(curves[one]));
      if (!left.length) return;
      const row = left[(Math.max(0, left.indexOf(at[0])) + step[0] + left.length) % left.length];
      const last = curves[row].points.length - 1;
      tell([row, Math.min(last, Math.max(0, at[1] + step[1]))]);
    });

    const tools = make("div", { class: "tools", role: "group", "aria-label": "What the picture shows" });
    const drawn = curves.filter((curve) => curve.ids.length);
    const names = [...new Set(drawn.map((curve) => curve.name))];
    if (names.length > 1) names.forEach((name) => {  // in every panel that has one of this name
      const button = make("button", { type: "button", "aria-pressed": "true" }, name);
      button.addEventListener("click", () => {
        const shows = button.getAttribute("aria-pressed") === "false";
        drawn.filter((curve) => curve.name === name).forEach((curve) => shows ? off.delete(curve) : off.add(curve));
        button.setAttribute("aria-pressed", String(shows));
        draw();
      });
      tools.append(button);
    });
    const most = Math.max(0, ...drawn.map((curve) => curve.seeds.length));
    if (most > 1) {
      const choice = make("select", { "aria-label": "Seeds" },
        make("option", { value: "all" }, "mean and seeds"), make("option", { value: "mean" }, "mean alone"));
      for (let seed = 0; seed < most; seed++) choice.append(make("option", { value: String(seed) }, `run ${seed + 1} of ${most}`));
      choice.addEventListener("change", () => { seeds = choice.value; draw(); });
      tools.append(choice);
    }
    if (tools.childNodes.length) roll.before(tools);
    roll.after(told);
  };

  document.querySelectorAll("main table").forEach(sortable);
  document.querySelectorAll("figure.touch").forEach(touchable);
})();
