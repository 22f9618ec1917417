"use strict";
(function () {
  var store = window.conceptatlas = window.conceptatlas || { data: {} };
  var html = document.documentElement;
  var runKey = "conceptatlas:edits:" + html.dataset.run;
  var $ = function (selector, from) { return (from || document).querySelector(selector); };
  var $$ = function (selector, from) { return Array.from((from || document).querySelectorAll(selector)); };
  var MINUS = "\u2212";

  function el(tag, attributes, children) {
    var svg = tag === "svg" || tag === "use";
    var node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    Object.keys(attributes || {}).forEach(function (key) {
      if (key === "text") node.textContent = attributes[key];
      else if (key === "on") Object.keys(attributes.on).forEach(function (e) { node.addEventListener(e, attributes.on[e]); });
      else if (attributes[key] !== null && attributes[key] !== undefined) node.setAttribute(key, attributes[key]);
    });
    (children || []).forEach(function (child) { if (child) node.append(child); });
    return node;
  }
  function recall(key) { try { return localStorage.getItem(key); } catch (error) { return null; } }
  function keep(key, value) { try { localStorage.setItem(key, value); } catch (error) { /* private window: kept for this page only */ } }
  function signed(value, digits) {
    if (value === null || value === undefined) return "\u2013";
    var text = Math.abs(value).toFixed(digits === undefined ? 2 : digits);
    return (Number(text) === 0 ? "" : value < 0 ? MINUS : "+") + text;
  }

  /* Colour scheme: the system's, or the reader's choice. */
  function isDark() {
    return html.dataset.theme ? html.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }
  function setUpTheme() {
    $("#theme").addEventListener("click", function () {
      html.dataset.theme = isDark() ? "light" : "dark";
      keep("conceptatlas:theme", html.dataset.theme);
      redrawPlots();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawPlots);
  }

  /* A person's edits: kept in this browser, shown everywhere, exported as a file. */
  var edits = {};
  function readEdits() { try { edits = JSON.parse(recall(runKey) || "{}") || {}; } catch (error) { edits = {}; } }
  function showEdits() {
    Object.keys(edits).forEach(function (key) {
      var edit = edits[key];
      var safe = CSS.escape(key);
      $$('[data-concept="' + safe + '"]').forEach(function (node) {
        if (node.dataset.given === undefined) node.dataset.given = node.textContent;
        node.textContent = edit.title || node.dataset.given;
      });
      $$('[data-tag="' + safe + '"]').forEach(function (node) { if (edit.tag !== undefined) node.textContent = edit.tag; });
      $$('[data-note="' + safe + '"]').forEach(function (node) { if (edit.note !== undefined) node.textContent = edit.note; });
      var form = $('form[data-edit="' + safe + '"]');
      if (form && !form.contains(document.activeElement)) ["title", "tag", "note"].forEach(function (name) {
        if (edit[name] !== undefined) form.elements[name].value = edit[name];
      });
    });
    $$("[data-tag]").forEach(function (node) { node.dataset.value = node.textContent; });
    var button = $("#edits"), n = Object.keys(edits).length;
    button.hidden = n === 0;
    $("#edits-count").textContent = n;
  }
  function setUpEdits(main) {
    $$("form[data-edit]", main).forEach(function (form) {
      form.addEventListener("input", function (event) {
        var edit = edits[form.dataset.edit] || { "class": form.dataset["class"], concept: Number(form.dataset.id) };
        edit[event.target.name] = event.target.value;
        edits[form.dataset.edit] = edit;
        keep(runKey, JSON.stringify(edits));
        showEdits();
      });
    });
    $$("form", main).forEach(function (form) { form.addEventListener("submit", function (event) { event.preventDefault(); }); });
  }
  function exportEdits() {
    var list = Object.keys(edits).sort().map(function (key) { return edits[key]; });
    var blob = new Blob([JSON.stringify({ schema: 1, edits: list }, null, 1)], { type: "application/json" });
    var link = el("a", { href: URL.createObjectURL(blob), download: "conceptatlas-edits.json" });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(function () { URL.revokeObjectURL(link.href); }, 1000);
  }

  /* Tables that sort by a click on a heading. */
  function sortKey(row, column) {
    var cell = row.cells[column];
    if (!cell) return "";
    var raw = cell.dataset.value !== undefined ? cell.dataset.value : cell.textContent.trim();
    var plain = raw.replace(MINUS, "-").replace(/[,%\s]/g, "");
    return plain !== "" && isFinite(plain) ? Number(plain) : raw === "\u2013" ? "" : raw.toLowerCase();
  }
  function compare(a, b) {
    if (a === "" || b === "") return a === b ? 0 : a === "" ? 2 : -2;
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  }
  function setUpTables(main) {
    $$("table.sortable", main).forEach(function (table) {
      $$("thead th button", table).forEach(function (button) {
        button.addEventListener("click", function () { sortTable(table, button.closest("th")); });
      });
    });
  }
  function sortTable(table, head) {
    var numeric = head.classList.contains("num");
    var was = head.getAttribute("aria-sort");
    var way = was === "ascending" ? "descending" : was === "descending" ? "ascending" : numeric ? "descending" : "ascending";
    $$("th", head.parentNode).forEach(function (th) { th.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", way);
    var body = table.tBodies[0];
    var rows = Array.from(body.rows).map(function (row, i) { return { row: row, key: sortKey(row, head.cellIndex), i: i }; });
    rows.sort(function (a, b) {
      var order = compare(a.key, b.key);
      if (Math.abs(order) === 2 && (a.key === "" || b.key === "")) return order;
      return (way === "ascending" ? order : -order) || a.i - b.i;
    });
    body.append.apply(body, rows.map(function (entry) { return entry.row; }));
  }

  /* The index: search over classes and concepts. */
  function fold(text) { return text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").toLowerCase(); }
  function setUpSearch(main) {
    var input = $("#q", main), source = $("#index-data", main);
    if (!input || !source) return;
    var data = JSON.parse(source.textContent);
    var rows = $$("#classes tbody tr", main).map(function (row) {
      return { row: row, text: fold(row.cells[1].textContent), link: $("a", row) };
    });
    var concepts = [];
    data.concepts.forEach(function (list, i) {
      list.forEach(function (c) {
        var key = data.index[i] + "." + c[0];
        var title = edits[key] && edits[key].title || c[1];
        var near = c[3].map(function (w) { return data.words[w]; });
        concepts.push({ at: i, id: c[0], key: key, label: title, text: fold(title + " " + c[1]), near: near.map(fold), shown: near, importance: c[2] });
      });
    });
    var box = $("#concept-results", main), list = $("ul", box), more = $("button", box), limit = 60, timer = 0;
    function line(c) {
      var row = rows[c.at];
      var numbers = " in " + row.link.textContent.slice(0, 40) + (c.importance === null ? "" : ", importance " + signed(c.importance, 0) + " %");
      var why = c.by.length ? "; nearest texts: " + c.by.join(", ") : "";
      return el("li", {}, [el("a", { href: row.link.getAttribute("href") + "#concept-" + c.id, text: c.label }), el("span", { "class": "quiet", text: numbers + why })]);
    }
    /* A concept answers by what it is called, or else by the texts that lie nearest to its crops: those are then named. */
    function answers(c, words) {
      c.by = [];
      return words.every(function (w) {
        if (c.text.indexOf(w) >= 0) return true;
        var at = c.near.findIndex(function (n) { return n.indexOf(w) >= 0; });
        if (at >= 0 && c.by.indexOf(c.shown[at]) < 0) c.by.push(c.shown[at]);
        return at >= 0;
      });
    }
    function search() {
      var words = fold(input.value).split(/\s+/).filter(Boolean);
      var shown = 0;
      rows.forEach(function (entry) {
        var hit = words.every(function (w) { return entry.text.indexOf(w) >= 0; });
        entry.row.hidden = !hit;
        shown += hit;
      });
      var hits = words.length ? concepts.filter(function (c) { return answers(c, words); }) : [];
      hits.sort(function (a, b) { return a.by.length - b.by.length || Math.abs(b.importance) - Math.abs(a.importance); });
      box.hidden = !hits.length;
      list.replaceChildren.apply(list, hits.slice(0, limit).map(line));
      more.hidden = hits.length <= limit;
      $("#found", main).textContent = shown.toLocaleString("en") + (shown === 1 ? " class, " : " classes, ") +
        (words.length ? hits.length : concepts.length).toLocaleString("en") + ((words.length ? hits.length : concepts.length) === 1 ? " concept" : " concepts");
    }
    input.addEventListener("input", function () { clearTimeout(timer); limit = 60; timer = setTimeout(search, 60); });
    more.addEventListener("click", function () { limit += 200; search(); });
    if (input.value) search();
  }

  /* Figures: plotly is fetched when the first one comes near the screen. */
  var plots = [], plotly = null;
  function needPlotly(then) {
    if (window.Plotly) return then();
    if (!plotly) {
      plotly = document.createElement("script");
      var inline = document.getElementById("plotly-source");
      if (inline) plotly.textContent = inline.textContent; else plotly.src = html.dataset.root + "assets/plotly.min.js";
      plotly.waiting = [then];
      plotly.onload = function () { plotly.waiting.forEach(function (f) { f(); }); plotly.waiting = []; };
      document.head.append(plotly);
      if (inline) plotly.onload();
    } else plotly.waiting.push(then);
  }
  function themed(layout, legend) {
    var look = getComputedStyle(html), ink = look.getPropertyValue("--ink").trim(), rule = look.getPropertyValue("--rule").trim();
    var quiet = look.getPropertyValue("--quiet").trim(), copy = JSON.parse(JSON.stringify(layout));
    copy.paper_bgcolor = copy.plot_bgcolor = "rgba(0,0,0,0)";
    copy.font = Object.assign({}, copy.font, { color: ink });
    copy.height = undefined;
    copy.showlegend = legend;
    ["xaxis", "yaxis"].forEach(function (name) {
      if (!copy[name] || copy[name].visible === false) return;
      Object.assign(copy[name], { gridcolor: rule, linecolor: rule, tickfont: { color: quiet } });
      if (copy[name].title) copy[name].title.font = { color: quiet, size: 12 };
    });
    copy.modebar = { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: ink };
    copy.hoverlabel = { bgcolor: look.getPropertyValue("--sheet").trim(), bordercolor: rule, font: { color: ink }, align: "left" };
    return copy;
  }
  function traces(figure) {
    var ink = isDark() ? "#f2efe9" : "#111111";
    return figure.data.map(function (trace) {
      var copy = trace.marker ? Object.assign({}, trace, { marker: Object.assign({}, trace.marker) }) : Object.assign({}, trace);
      var line = copy.marker && copy.marker.line;
      if (line && Array.isArray(line.color)) copy.marker.line = Object.assign({}, line, {
        color: line.color.map(function (c) { return c === "#111111" ? ink : c; }) });
      return copy;
    });
  }
  function draw(plot) {
    window.Plotly.react(plot.node, traces(plot.figure), themed(plot.figure.layout, plot.node.classList.contains("legend")), {
      displaylogo: false, responsive: true, scrollZoom: false, showTips: false, showLink: false,
      modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]]
    }).then(function () { plot.node.dataset.drawn = "1"; });
  }
  function redrawPlots() { plots.forEach(function (plot) { if (plot.node.dataset.drawn) draw(plot); }); }
  function setUpPlots(main, data) {
    plots = [];
    if (!data || !data.figures) return;
    $$(".plot", main).forEach(function (node) {
      var figure = data.figures[node.dataset.figure];
      if (!figure) return;
      var plot = { node: node, figure: figure };
      plots.push(plot);
      var watch = new IntersectionObserver(function (entries) {
        if (!entries.some(function (e) { return e.isIntersecting; })) return;
        watch.disconnect();
        needPlotly(function () {
          draw(plot);
          if (node.dataset.figure === "graph") { listenToPoints(node, data); setUpThumbs(node, data, figure); }
          else node.on("plotly_click", function (event) {
            var card = document.getElementById("concept-" + event.points[0].customdata);
            if (card) card.scrollIntoView();
          });
        });
      }, { rootMargin: "400px" });
      watch.observe(node);
    });
  }
  function listenToPoints(node, data) {
    node.on("plotly_hover", function (event) {
      var point = event.points[0];
      if (point.customdata === undefined) return;
      showTip(data, point.customdata, event.event.clientX, event.event.clientY);
    });
    node.on("plotly_unhover", hideTip);
    node.on("plotly_click", function (event) { hideTip(); openPanel(data, event.points[0].customdata); });
  }

  /* The images themselves in the places of their points, on request; the points below go on answering. */
  function setUpThumbs(node, data, figure) {
    var button = $("[data-thumbs]", node.parentNode), layer = null, placed = [];
    if (!button || !data.sheets || !data.sheets.views) return;
    function build() {
      layer = el("div", { "class": "thumbs", "aria-hidden": "true" });
      figure.data.forEach(function (trace) {
        (trace.customdata || []).forEach(function (row, i) {
          var picture = cell(data, "views", data.images.view[row], "");
          if (!picture) return;
          picture.style.setProperty("--edge", trace.marker.color);
          if (data.images.correct[row] === 0) picture.classList.add("wrong");
          placed.push({ x: trace.x[i], y: trace.y[i], node: picture });
          layer.append(picture);
        });
      });
    }
    function place() {
      var full = node._fullLayout;
      if (!full || !layer || !layer.isConnected) return;
      layer.style.width = node.clientWidth + "px";
      layer.style.height = node.clientHeight + "px";
      placed.forEach(function (p) {
        p.node.style.left = full.xaxis._offset + full.xaxis.l2p(p.x) + "px";
        p.node.style.top = full.yaxis._offset + full.yaxis.l2p(p.y) + "px";
      });
    }
    button.hidden = false;
    button.addEventListener("click", function () {
      var on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      button.textContent = on ? "Show the points" : "Show the images";
      if (!layer) build();
      if (on) { node.after(layer); place(); } else layer.remove();
    });
    node.on("plotly_afterplot", place);
    node.on("plotly_relayouting", place);
  }

  /* Pictures out of the sheets. */
  function cell(data, kind, index, alt) {
    var sheet = data.sheets && data.sheets[kind];
    if (!sheet || index === undefined || index < 0) return null;
    var image = el("img", { alt: alt });
    image.src = pictureUrl(sheet.path) || html.dataset.root + sheet.path;
    var style = "--c:" + sheet.columns + ";--x:" + (index % sheet.columns) + ";--y:" + Math.floor(index / sheet.columns) + ";--r:" + sheet.cell[0] + "/" + sheet.cell[1];
    return el("span", { "class": "cell" + (kind === "heats" ? " heat" : ""), style: style }, [image]);
  }
  function mark(data, concept) {
    var style = data.styles[concept];
    return el("svg", { "class": "mark", "aria-hidden": "true", style: "color:" + style[0] }, [el("use", { href: "#m-" + style[1] })]);
  }
  function nameOf(data, concept) {
    var edit = edits[data.index + "." + concept];
    return edit && edit.title || data.labels[concept];
  }
  function byWeight(values) {
    return values.map(function (v, i) { return [i, v]; }).sort(function (a, b) { return Math.abs(b[1]) - Math.abs(a[1]) || a[0] - b[0]; });
  }

  function showTip(data, row, x, y) {
    var tip = $("#tip"), images = data.images;
    var lines = byWeight(images.contributions[row]).slice(0, 3).map(function (entry) {
      return el("div", {}, [mark(data, entry[0]), " " + signed(entry[1]) + " ", el("bdi", { text: nameOf(data, entry[0]) })]);
    });
    var verdict = images.correct[row] === 0 ? ", wrong" : images.correct[row] === 1 ? ", right" : "";
    tip.replaceChildren.apply(tip, [
      cell(data, "views", images.view[row], ""),
      el("b", { text: images.id[row].slice(-48) }),
      el("div", { "class": "quiet", text: "probability " + images.probability[row].toFixed(2) + verdict })
    ].filter(Boolean).concat(lines));
    tip.hidden = false;
    tip.style.left = Math.max(8, Math.min(x + 16, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = Math.max(8, Math.min(y + 16, innerHeight - tip.offsetHeight - 8)) + "px";
  }
  function hideTip() { $("#tip").hidden = true; }

  /* One image: bias + concepts + residual = score, and where each concept is. */
  function waterfall(data, row, focus, pick) {
    var images = data.images, steps = [{ name: "bias", value: images.bias[row], rest: true }];
    byWeight(images.contributions[row]).forEach(function (e) { steps.push({ concept: e[0], value: e[1] }); });
    steps.push({ name: "no concept (residual)", value: images.residual[row], rest: true });
    var at = 0, low = 0, high = 0;
    steps.forEach(function (s) { s.from = at; at += s.value; low = Math.min(low, at); high = Math.max(high, at); });
    var scale = function (v) { return 100 * (v - low) / (high - low || 1); };
    var items = steps.map(function (s) {
      var left = Math.min(s.from, s.from + s.value);
      return fallLine(data, s, scale(left), scale(left + Math.abs(s.value)), scale(0), row, focus, pick);
    });
    items.push(fallLine(data, { name: "score", value: images.logit[row], total: true }, scale(Math.min(0, at)), scale(Math.max(0, at)), scale(0), row));
    var gone = images.flips && images.flips[row];
    return el("div", {}, [
      el("ol", { "class": "fall", "aria-label": "How the score came about" }, items),
      gone && gone.length ? el("p", { "class": "fall-note", text: "\u2715 marks what it would take to change the decision: without " + (gone.length === 1 ? "this concept" : "these " + gone.length + " concepts") + " another class would win." }) : null
    ]);
  }
  function fallLine(data, step, start, end, zero, row, focus, pick) {
    var kind = step.total ? "sum" : step.rest ? "rest" : step.value < 0 ? "neg" : "";
    var concept = step.concept, name = concept === undefined ? step.name : nameOf(data, concept);
    var press = concept !== undefined && data.heat[row + "." + concept] !== undefined;
    var line = el(press ? "button" : "div", { "class": "line", title: name, type: press ? "button" : null }, [
      el("span", { "class": "name" }, [concept === undefined ? null : mark(data, concept), el("bdi", { text: name })]),
      el("span", { "class": "span", "aria-hidden": "true" }, [
        el("u", { style: "left:" + zero + "%" }),
        el("i", { "class": kind, style: "left:" + start + "%;width:" + (end - start) + "%" })]),
      el("span", { "class": "v", text: signed(step.value) })
    ]);
    if (press) {
      line.setAttribute("aria-pressed", String(concept === focus));
      line.addEventListener("click", function () { pick(concept === focus ? -1 : concept); });
    }
    var flips = data.images.flips && data.images.flips[row], gone = flips && concept !== undefined && flips.indexOf(concept) >= 0;
    return el("li", { "class": step.total ? "total" : gone ? "gone" : null }, [line]);
  }
  function openPanel(data, row, focus) {
    var panel = $("#panel"), images = data.images, n = images.id.length;
    if (focus === undefined) focus = byWeight(images.contributions[row]).map(function (e) { return e[0]; })
      .find(function (c) { return data.heat[row + "." + c] !== undefined; });
    var view = cell(data, "views", images.view[row], images.id[row]);
    var heat = focus === undefined || focus < 0 ? null : cell(data, "heats", data.heat[row + "." + focus], "");
    var picture = el("div", { "class": "picture" }, [
      view ? el("span", { "class": "stack" }, [view, heat]) : el("div", { "class": "none", text: "No picture of this image is stored." }),
      view && heat ? el("p", { "class": "caption", text: "Map of " + nameOf(data, focus) }) : null,
      el("p", { "class": "panel-text", text: images.text[row] })
    ]);
    var step = function (by) { return function () { openPanel(data, (row + by + n) % n); }; };
    panel.replaceChildren(el("div", { "class": "panel" }, [
      el("div", { "class": "panel-head" }, [
        el("div", {}, [el("h2", {}, [el("bdi", { text: images.id[row] })])]),
        el("div", {}, [
          el("button", { "class": "plain", type: "button", "aria-label": "Previous image", text: "\u2190", on: { click: step(-1) } }),
          el("button", { "class": "plain", type: "button", "aria-label": "Next image", text: "\u2192", on: { click: step(1) } }),
          el("button", { "class": "plain", type: "button", text: "Close", on: { click: function () { panel.close(); } } })])]),
      el("div", { "class": "panel-body" }, [picture, waterfall(data, row, focus, function (c) { openPanel(data, row, c); })])
    ]));
    panel.onkeydown = function (event) {
      if (event.key === "ArrowRight") step(1)();
      if (event.key === "ArrowLeft") step(-1)();
    };
    if (!panel.open) panel.showModal();
    setAddress("#image-" + row);
  }
  /* An image has an address of its own: the panel opens for #image-12, and going there is one step back. */
  function setAddress(hash) {
    try { history.replaceState(history.state, "", hash || location.pathname + location.search); } catch (error) { /* no history here */ }
  }
  function openFromAddress(data) {
    var wanted = /^#image-(\d+)$/.exec(location.hash);
    if (wanted && data && data.images && Number(wanted[1]) < data.images.id.length) openPanel(data, Number(wanted[1]));
  }
  function setUpImages(main, data) {
    if (!data || !data.images) return;
    $$("button[data-row]", main).forEach(function (button) {
      button.addEventListener("click", function () {
        openPanel(data, Number(button.dataset.row), button.dataset.focus === undefined ? undefined : Number(button.dataset.focus));
      });
    });
  }

  /* The single-file edition: pages are templates, pictures are blobs. */
  var blobs = {};
  function pictureUrl(path) {
    if (path in blobs) return blobs[path];
    var source = document.getElementById("asset:" + path);
    if (!source) return null;
    var bytes = Uint8Array.from(atob(source.textContent), function (c) { return c.charCodeAt(0); });
    blobs[path] = URL.createObjectURL(new Blob([bytes], { type: "image/webp" }));
    return blobs[path];
  }
  function fillPictures(main) {
    $$("img[data-asset]", main).forEach(function (image) {
      var url = pictureUrl(image.dataset.asset);
      if (url) image.src = url;
    });
  }
  function goTo(path, hash) {
    var template = document.getElementById("page:" + path);
    if (!template) return false;
    var main = $("#main");
    main.dataset.page = path;
    main.replaceChildren(template.content.cloneNode(true));
    document.title = template.dataset.title;
    $$(".top nav a").forEach(function (a) {
      if (resolve(a.getAttribute("href"), "index.html").path === path) a.setAttribute("aria-current", "page"); else a.removeAttribute("aria-current");
    });
    mount(main);
    var target = hash && document.getElementById(hash);
    if (target) target.scrollIntoView(); else scrollTo(0, 0);
    return true;
  }
  function resolve(href, from) {
    var url = new URL(href, "atlas:///" + from);
    return { path: decodeURIComponent(url.pathname.replace(/^\/+/, "")), hash: decodeURIComponent(url.hash.slice(1)), scheme: url.protocol };
  }
  function setUpRouter() {
    if (!$("template[id^='page:']")) return;
    document.addEventListener("click", function (event) {
      var link = event.target.closest && event.target.closest("a[href]");
      if (!link || link.hasAttribute("download")) return;
      var href = link.getAttribute("href");
      if (href.charAt(0) === "#") return;
      var inBar = link.closest(".top, .foot");
      var to = resolve(href, inBar ? "index.html" : $("#main").dataset.page);
      if (to.scheme !== "atlas:") return;
      event.preventDefault();
      if (goTo(to.path, to.hash)) { try { history.pushState({ path: to.path, hash: to.hash }, ""); } catch (error) { /* no history here */ } }
    });
    addEventListener("popstate", function (event) { if (event.state) goTo(event.state.path, event.state.hash); });
    try { history.replaceState({ path: "index.html", hash: "" }, ""); } catch (error) { /* no history here */ }
    goTo("index.html", "");
  }

  function mount(main) {
    var inline = $("script.page-data", main);
    var data = inline ? JSON.parse(inline.textContent) : store.data[main.dataset.page];
    fillPictures(main);
    setUpTables(main);
    setUpEdits(main);
    setUpPlots(main, data);
    setUpImages(main, data);
    openFromAddress(data);
    showEdits();
    setUpSearch(main);
  }
  readEdits();
  setUpTheme();
  $("#panel").addEventListener("close", function () { setAddress(""); });
  $("#edits").addEventListener("click", exportEdits);
  document.addEventListener("keydown", function (event) {
    var input = $("#q");
    if (event.key === "/" && input && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) { event.preventDefault(); input.focus(); }
    if (event.key === "Escape") hideTip();
  });
  addEventListener("scroll", hideTip, { passive: true });
  mount($("#main"));
  setUpRouter();
})();
