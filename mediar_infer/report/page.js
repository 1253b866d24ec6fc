"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const body = document.querySelector("#ledger tbody");
  const rows = [...body.rows];
  const viewer = byId("viewer");
  const layers = [byId("layer-image"), byId("layer-outlines")];
  const points = new Map(
    [...document.querySelectorAll(".point")].map((point) => [point.getAttribute("href").slice(1), point]),
  );
  let pinned = null;
  let shown = null;

  const picturesOf = (row) => byId(`pictures-${row.id}`).textContent.split("\n");

  // Small pictures in the table, of the same data, once their rows come near the window.
  const sight = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        sight.unobserve(target);
        for (const address of picturesOf(target).filter((each) => each.startsWith("data:"))) {
          const image = new Image();
          image.alt = "";
          image.decoding = "async";
          image.src = address;
          target.querySelector(".thumb").append(image);
        }
      }
    },
    { rootMargin: "400px" },
  );
  rows.forEach((row) => sight.observe(row));

  const show = (row) => {
    if (!row || row === shown) return;
    shown?.classList.remove("shown");
    points.get(shown?.id)?.classList.remove("shown");
    shown = row;
    row.classList.add("shown");
    points.get(row.id)?.classList.add("shown");
    byId("viewer-name").textContent = row.querySelector(".pin").textContent;
    byId("details").replaceChildren(byId(`details-${row.id}`).content.cloneNode(true));
    const pictures = picturesOf(row);
    layers[0].alt = `Cells of ${byId("viewer-name").textContent}`;
    layers.forEach((layer, index) => {
      layer.hidden = !pictures[index];
      if (pictures[index]) layer.src = pictures[index];
      else layer.removeAttribute("src");
    });
    layers[1].classList.toggle("only", !pictures[0]);
    byId("no-picture").hidden = Boolean(pictures[0] || pictures[1]);
  };

  const pin = (row) => {
    const isNew = row !== pinned;
    for (const each of [pinned, row]) {
      each?.classList.toggle("pinned", each === row && isNew);
      each?.querySelector(".pin").setAttribute("aria-pressed", String(each === row && isNew));
    }
    pinned = isNew ? row : null;
    viewer.classList.toggle("open", pinned !== null);
    show(row);
  };

  const keep = (row) => {
    if (row && row !== pinned) pin(row);
  };

  for (const layer of layers) {
    // Small images are enlarged to the frame without smoothing, so that their pixels can be told.
    layer.addEventListener("load", () =>
      byId("picture").classList.toggle("small", layer.naturalWidth < 360),
    );
  }

  for (const row of rows) {
    // Scrolling moves rows below a resting mouse, which is no pointing at them.
    row.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse" && (event.movementX || event.movementY)) show(row);
    });
    row.addEventListener("click", () => pin(row));
    row.querySelector(".pin").addEventListener("focus", () => show(row));
  }
  body.addEventListener("pointerleave", () => show(pinned));
  body.addEventListener("keydown", (event) => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const next = step && event.target.closest("tr")?.[step];
    if (!next) return;
    event.preventDefault();
    next.querySelector(".pin").focus();
  });

  for (const [id, point] of points) {
    point.addEventListener("pointerenter", () => show(byId(id)));
    point.addEventListener("pointerleave", () => show(pinned));
    point.addEventListener("focus", () => show(byId(id)));
    point.addEventListener("click", () => keep(byId(id)));
  }
  const keepTarget = () => keep(rows.find((row) => row.id === location.hash.slice(1)));
  window.addEventListener("hashchange", keepTarget);
  byId("close").addEventListener("click", () => pinned && pin(pinned));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && pinned) pin(pinned);
  });

  const opacity = byId("opacity");
  const fade = () => {
    layers[1].style.opacity = opacity.value / 100;
    byId("opacity-value").textContent = `${opacity.value} %`;
  };
  opacity.addEventListener("input", fade);

  // Empty values come last in either direction.
  const compare = (a, b, sign) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const isNumber = !Number.isNaN(Number(a)) && !Number.isNaN(Number(b));
    return sign * (isNumber ? a - b : a.localeCompare(b, "en", { numeric: true }));
  };
  document.querySelectorAll("#ledger thead th").forEach((header, column) => {
    header.firstElementChild.addEventListener("click", () => {
      const isAscending = header.getAttribute("aria-sort") === "ascending";
      document.querySelector("th[aria-sort]")?.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", isAscending ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value;
      const sign = isAscending ? -1 : 1;
      body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b), sign)));
    });
  });

  fade();
  const hasPicture = (row) => picturesOf(row).some((each) => each.startsWith("data:"));
  const isBad = (row) => row.querySelector(".bad") && hasPicture(row);
  show(rows.find(isBad) ?? rows.find(hasPicture) ?? rows[0]);
  keepTarget();
})();
