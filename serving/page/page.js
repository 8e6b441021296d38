"use strict";
// The first day of a new listener. It is stored only in this page; each change requests new recommendations.

const at = (id) => document.getElementById(id);
const SIGNALS = { streams: "played", favourites: "liked", skips: "skipped", bans: "banned" };
const ICONS = {
  streams: "M4 2.5v11l9-5.5z",
  favourites: "M8 14 2.6 8.6a3.3 3.3 0 0 1 4.7-4.7l.7.7.7-.7a3.3 3.3 0 0 1 4.7 4.7z",
  skips: "M2 3v10l7-5zm8 0h2.5v10H10z",
  bans: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zM3 8c0-1 .3-2 .9-2.8l6.9 6.9A5 5 0 0 1 3 8zm9.1 2.8L5.2 3.9a5 5 0 0 1 6.9 6.9z",
};
const METHODS = {
  configured: "as released", semi_pers: "by segment", full_pers: "for you alone", blend: "blend", popularity: "popular",
};
const fresh = () => ({ country: null, age: null, artists: [], streams: [], favourites: [], skips: [], bans: [] });
let day = fresh();
let key = sessionStorage.getItem("key") || "";
let asking = null;
let later = 0; // timer of a request that is delayed while the user types
let unsaid = []; // actions that no displayed answer includes yet
let searching = null;
let shown = [];
const named = { tracks: new Map(), artists: new Map() };

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

function colours(element, id) {
  const hue = Number((BigInt(id) * 2654435761n) % 360n);
  element.style.background = `linear-gradient(135deg, hsl(${hue} 45% 52%), hsl(${(hue + 50) % 360} 50% 34%))`;
  return element;
}

async function call(path, body, signal) {
  const headers = key ? { "x-api-key": key } : {};
  const options = body ? { method: "POST", body: JSON.stringify(body), headers: { ...headers, "content-type": "application/json" }, signal } : { headers, signal };
  // The server may close an idle connection. Requests do not change any state, so a failed one is sent once more.
  const answer = await fetch(path, options).catch((error) => {
    if (error.name === "AbortError") throw error;
    return fetch(path, options);
  });
  at("key").hidden = answer.status !== 401;
  const data = await answer.json();
  if (!answer.ok) {
    const why = [data.error, ...data.details.map((one) => `${one.field}: ${one.message}`)].join("; ");
    throw Object.assign(new Error(why), { status: answer.status });
  }
  return data;
}

function trouble(error) {
  at("trouble").textContent = error ? `The request failed: ${error.message}` : "";
  at("trouble").hidden = !error;
}

function listener() {
  const ids = (name) => ({ tracks: day[name].map((track) => track.track_id) });
  return {
    country: day.country, age: day.age, onboarding: { artists: day.artists },
    streams: ids("streams"), skips: ids("skips"), bans: ids("bans"), favourites: ids("favourites"),
  };
}

// Each request contains the whole day, so an earlier request that is delayed or running is cancelled.
async function ask(said) {
  if (said) unsaid.push(said);
  clearTimeout(later);
  if (asking) asking.abort();
  const mine = (asking = new AbortController());
  const who = listener(), words = [...unsaid];
  try {
    const [list, row] = await Promise.all([
      call("/v1/recommendations", { listener: who, k: 15, method: at("method").value || "configured", explain: true }, mine.signal),
      call("/v1/carousels", { listener: who, diversity: Number(at("diversity").value), n_nearest_tracks: 2 }, mine.signal).catch((error) => {
        if (error.name === "AbortError") throw error;
        return error; // the list is shown without the carousel
      }),
    ]);
    if (asking !== mine) return; // a newer request replaced this one
    const without = row instanceof Error;
    trouble(without && row.status !== 422 ? row : null); // 422: the release has no playlists, which is not an error
    showList(list);
    showWhy(list);
    showRow(without ? null : row);
    at("release").textContent = `Release ${list.release.slice(0, 12)}, week ${list.week}, ${list.space}, ${METHODS[list.method] || list.method}`;
    unsaid = unsaid.slice(words.length);
    const heard = words.filter((word, i) => word !== words[i - 1]); // an age is typed digit by digit
    if (words.length) at("said").textContent = `${heard.join(". ")}. First now: ${title(list.tracks[0])}. ${list.reasons.text}`;
  } catch (error) {
    if (error.name !== "AbortError") trouble(error);
  }
}

function askSoon(said, wait) {
  if (said) unsaid.push(said);
  clearTimeout(later);
  later = setTimeout(ask, wait);
}

const title = (track) => (track ? track.title || `Track ${track.track_id}` : "nothing");
const artist = (track) => track.artist || `Artist ${track.artist_id}`;

function showList(list) {
  const focused = document.activeElement?.dataset?.act ? document.activeElement.dataset : null;
  const before = new Set(shown.map((track) => track.track_id));
  at("tracks").replaceChildren(...list.tracks.map((track, i) => {
    named.tracks.set(track.track_id, title(track));
    named.artists.set(track.artist_id, artist(track));
    const acts = Object.keys(SIGNALS).map((act) => {
      const on = day[act].some((other) => other.track_id === track.track_id);
      const button = make("button", {
        type: "button", class: act === "bans" ? "ban" : null, "aria-pressed": act === "bans" ? null : String(on),
        "aria-label": `${{ streams: "Play", favourites: "Like", skips: "Skip", bans: "Ban" }[act]} ${title(track)}`,
        title: { streams: "Play", favourites: "Like", skips: "Skip", bans: "Ban" }[act], onclick: () => act_on(act, track),
      }, icon(act));
      button.dataset.act = act;
      button.dataset.place = String(i);
      return button;
    });
    return make("li", { class: shown.length && !before.has(track.track_id) ? "new" : null },
      make("span", { class: "place" }, String(i + 1)), colours(make("span", { class: "tile", "aria-hidden": "true" }), track.artist_id),
      make("div", { class: "name" }, make("b", {}, title(track)), make("span", {}, artist(track))), make("div", { class: "acts" }, ...acts));
  }));
  shown = list.tracks;
  // Keyboard focus stays at the same position and button.
  if (focused) at("tracks").querySelector(`[data-act="${focused.act}"][data-place="${Math.min(Number(focused.place), shown.length - 1)}"]`)?.focus();
  at("stands-in").hidden = !list.degraded;
  at("stands-in").textContent = list.degraded ? `Fallback: ${list.degraded.fallback.replaceAll("_", " ")}. Reason: ${list.degraded.reason}` : "";
}

function showWhy(list) {
  at("reason").textContent = list.reasons.text;
  const card = list.segment ? list.segment.card : {};
  const traits = ["ages", "countries", "genres", "artists"].map((kind) => [kind, (card[kind] || []).filter((trait) => trait.lift > 1)]);
  at("card").replaceChildren(...traits.filter(([, found]) => found.length).flatMap(([name, found]) => [
    make("h3", {}, `Often in segment ${list.segment.segment_id}: ${name}`),
    ...found.map((trait) => make("div", { class: "trait" }, make("span", {}, name === "countries" ? country(trait.name) : trait.name),
      make("i", {}, `${Math.round(trait.share * 100)} %, ${trait.lift.toFixed(1)} times as often`),
      make("meter", { min: 0, max: 1, value: trait.share, "aria-label": `share of ${trait.name}: ${Math.round(trait.share * 100)} %` }))),
  ]));
  const moved = list.reasons.top_signals || [];
  const most = moved.length ? moved[0].contribution : 1;
  at("moved").replaceChildren(...(moved.length ? moved.map((one) => make("li", { class: "contribution" }, make("span", {}, called(one)),
    make("small", {}, one.signal.replace(".", ": ")), make("meter", { min: 0, max: most, value: one.contribution, "aria-label": "contribution" })))
    : [make("li", {}, make("small", {}, "Nothing yet: enter your country or age, pick artists, or play a track"))]));
}

function called(one) {
  if (one.signal === "age") return `age ${one.id}`;
  if (one.signal === "country") return country(one.id);
  const kind = one.signal.split(".")[1];
  return one.name || named[kind]?.get(one.id) || `${kind.slice(0, -1)} ${one.id}`;
}

function showRow(row) {
  at("row").hidden = !row;
  if (!row) return;
  at("carousel").replaceChildren(...row.playlists.map((one) => make("li", {},
    colours(make("div", { class: "cover" }, [...new Set(one.nearest_tracks.map(artist))].join(", ") || "Playlist"), one.playlist_id),
    make("p", {}, `Playlist ${one.playlist_id}${one.nearest_tracks.length ? `, similar to ${one.nearest_tracks.map(title).join(" and ")}` : ""}`),
    make("meter", { min: 0, max: 1, value: one.exposure, title: `seen by ${Math.round(one.exposure * 100)} %`, "aria-label": `seen by ${Math.round(one.exposure * 100)} percent` }))));
  at("row-facts").textContent = `Bars: estimated share of listeners who look at each position (${row.exposure_model}). Mean relevance to you, weighted by this share: ${row.expected_relevance.toFixed(2)}. Mean similarity between playlists: ${row.similarity.toFixed(2)}.`;
}

function act_on(act, track) {
  const there = day[act].some((other) => other.track_id === track.track_id);
  if (there && act !== "streams") day[act] = day[act].filter((other) => other.track_id !== track.track_id);
  else day[act] = [...day[act], track];
  showDay();
  ask(`${title(track)} ${there && act !== "streams" ? "not " : ""}${SIGNALS[act]}`);
}

function showDay() {
  const lines = Object.entries(SIGNALS).flatMap(([act, word]) => day[act].map((track, i) => make("li", {}, icon(act),
    make("span", {}, title(track)),
    make("button", { type: "button", "aria-label": `Undo: ${word} ${title(track)}`, onclick: (event) => {
      const place = [...at("done").querySelectorAll("button")].indexOf(event.currentTarget);
      day[act] = day[act].filter((_, other) => other !== i);
      showDay();
      ask(`Undone: ${title(track)}`);
      // Focus never moves to "Start again": one more Enter would reset the whole day.
      const left = at("done").querySelectorAll("button");
      (left[Math.min(place, left.length - 1)] || at("done")).focus();
    } }, "×"))));
  for (const line of lines) line.querySelector("svg").setAttribute("width", "14");
  at("done").replaceChildren(...(lines.length ? lines : [make("li", { class: "none" }, "Nothing played yet")]));
}

function country(code) {
  try {
    return new Intl.DisplayNames(["en"], { type: "region" }).of(code) || code;
  } catch {
    return code;
  }
}

async function showArtists() {
  if (searching) searching.abort(); // a slow answer must not replace the results of a newer search
  const mine = (searching = new AbortController());
  const text = at("find").value.trim();
  let results;
  try {
    results = (await call(`/v1/search?kind=artists&limit=24&q=${encodeURIComponent(text)}`, null, mine.signal)).results;
  } catch (error) {
    if (error.name === "AbortError") return;
    throw error;
  }
  if (searching !== mine) return;
  for (const one of results) named.artists.set(one.id, one.name || `Artist ${one.id}`);
  const picked = day.artists.map((id) => ({ id, name: named.artists.get(id) }));
  const others = results.filter((one) => !day.artists.includes(one.id));
  const focused = document.activeElement?.dataset?.artist;
  at("artists").replaceChildren(...[...picked, ...others].map((one) => {
    const on = day.artists.includes(one.id);
    const button = make("button", { type: "button", "aria-pressed": String(on), title: one.genre || null, onclick: () => {
      const now = day.artists.includes(one.id);
      day.artists = now ? day.artists.filter((id) => id !== one.id) : [...day.artists, one.id];
      button.setAttribute("aria-pressed", String(!now));
      ask(`${button.textContent} ${now ? "no longer picked" : "picked"}`);
    } }, one.name || `Artist ${one.id}`);
    button.dataset.artist = String(one.id);
    return button;
  }));
  if (focused) (at("artists").querySelector(`[data-artist="${focused}"]`) || at("find")).focus();
}

async function begin() {
  try {
    const release = await call("/v1/release");
    const codes = release.countries.map((code) => [country(code), code]).sort();
    at("country").replaceChildren(make("option", { value: "" }, "not given"), ...codes.map(([name, code]) => make("option", { value: code }, name)));
    at("method").replaceChildren(...["configured", ...release.methods].map((name) => make("option", { value: name }, METHODS[name] || name)));
    await showArtists();
    showDay();
    await ask();
  } catch (error) {
    trouble(error);
  }
}

at("country").addEventListener("change", () => { day.country = at("country").value || null; ask("Country changed"); });
at("age").addEventListener("input", () => {
  day.age = at("age").value === "" || !at("age").checkValidity() ? null : Number(at("age").value);
  askSoon("Age changed", 250);
});
let finding = 0;
at("find").addEventListener("input", () => {
  clearTimeout(finding);
  finding = setTimeout(() => showArtists().catch(trouble), 200);
});
at("method").addEventListener("change", () => ask("Method changed"));
at("diversity").addEventListener("input", () => askSoon(null, 120));
at("reset").addEventListener("click", () => {
  day = fresh();
  for (const id of ["country", "age", "find"]) at(id).value = "";
  showArtists().catch(trouble);
  showDay();
  ask("Started again");
});
at("key").addEventListener("submit", (event) => {
  event.preventDefault();
  key = at("key-value").value;
  sessionStorage.setItem("key", key);
  begin();
});
begin();
