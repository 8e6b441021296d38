"use strict";
// The first day of a new listener. Each change requests new recommendations, and is sent to the service as an event of a
// guest, so that the day is still there when the page is loaded again.

const byId = (id) => document.getElementById(id);
const SIGNALS = { streams: "played", favourites: "liked", skips: "skipped", bans: "banned" };
const ICONS = {
  streams: "M4 2.5v11l9-5.5z",
  favourites: "M8 14 2.6 8.6a3.3 3.3 0 0 1 4.7-4.7l.7.7.7-.7a3.3 3.3 0 0 1 4.7 4.7z",
  skips: "M2 3v10l7-5zm8 0h2.5v10H10z",
  never: "M8 1.5a3 3 0 0 1 2.6 4.5L6.5 1.9A3 3 0 0 1 8 1.5zM5 4.6l3 2.9A3 3 0 0 1 5 4.6zM2.5 14c0-2.6 1.8-4.6 4.6-5.2L12.3 14zM13.9 14.6 1.4 2.1l.9-.9 12.5 12.5z",
  bans: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zM3 8c0-1 .3-2 .9-2.8l6.9 6.9A5 5 0 0 1 3 8zm9.1 2.8L5.2 3.9a5 5 0 0 1 6.9 6.9z",
};
const METHODS = {
  configured: "as released", semi_pers: "by segment", full_pers: "for you alone", blend: "blend", ranked_candidates: "ranked", popularity: "popular",
  country_age: "by country and age",
};
const emptyDay = () => ({ country: null, age: null, artists: [], streams: [], favourites: [], skips: [], bans: [], neverArtists: [] });
const PAGE_LENGTH = 15;
const EVENT_KINDS = { streams: "stream", favourites: "favourite", skips: "skip", bans: "ban" };
const KINDS = Object.fromEntries(Object.entries(EVENT_KINDS).map(([act, kind]) => [kind, act]));
const PLAYED_S = 60; // played time of a track that is played here
const pickedEvents = new Map(); // event id of each picked artist
let day = emptyDay();
let key = sessionStorage.getItem("key") || "";
let runningRequest = null;
let requestTimer = 0; // timer of a request that is delayed while the user types
let unannounced = []; // actions that no displayed answer includes yet
let runningSearch = null;
let shownTracks = [];
let userForm = "integer"; // form of user ids: integer or text
let shownRequest = null; // the request of the shown list, for its next page
let nextPage = null; // cursor of that page
const names = { tracks: new Map(), artists: new Map() };

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
  let hue = 0; // ids are text
  for (const character of id) hue = (hue * 31 + character.codePointAt(0)) % 360;
  element.style.background = `linear-gradient(135deg, hsl(${hue} 45% 52%), hsl(${(hue + 50) % 360} 50% 34%))`;
  return element;
}

async function call(path, body, signal, method) {
  const headers = key ? { "x-api-key": key } : {};
  const options = body ? { method: "POST", body: JSON.stringify(body), headers: { ...headers, "content-type": "application/json" }, signal } : { headers, signal, method: method || "GET" };
  // The server may close an idle connection. Every request has the same effect when it is repeated, events by their ids,
  // so a failed one is sent once more.
  const answer = await fetch(path, options).catch((error) => {
    if (error.name === "AbortError") throw error;
    return fetch(path, options);
  });
  byId("key").hidden = answer.status !== 401;
  const data = await answer.json();
  if (!answer.ok) {
    const why = [data.detail, ...data.details.map((one) => `${one.field}: ${one.message}`)].join("; ");
    throw Object.assign(new Error(why), { status: answer.status });
  }
  return data;
}

function showError(error) {
  byId("error").textContent = error ? `The request failed: ${error.message}` : "";
  byId("error").hidden = !error;
}

function listener() {
  const ids = (name) => ({ tracks: day[name].map((track) => track.track_id) });
  return {
    country: day.country, age: day.age, onboarding: { artists: day.artists },
    streams: ids("streams"), skips: ids("skips"), favourites: ids("favourites"),
    bans: { ...ids("bans"), artists: day.neverArtists.map((one) => one.artist_id) },
  };
}

let guest = sessionStorage.getItem("guest") || "";
let remembering = Promise.resolve(); // events are sent one after the other: an undo never overtakes its event

function newGuest(form) {
  const words = crypto.getRandomValues(new Uint32Array(4));
  guest = form === "text" ? `guest-${[...words].map((word) => word.toString(16).padStart(8, "0")).join("")}`
    : String(words[0] * 2 ** 20 + (words[1] >>> 12)); // below 2^53, so that no client rounds it
  sessionStorage.setItem("guest", guest);
}

function rememberLater(work) {
  remembering = remembering.then(work).then(() => showRemembered(null), showRemembered);
}

function showRemembered(error) {
  byId("remembered").textContent = error ? `The service does not remember your day: ${error.message}` : `The service remembers this day as listener ${guest}.`;
}

// Send one event; return its id, with which it can be undone.
function remember(kind, entity, id, seconds) {
  const words = crypto.getRandomValues(new Uint32Array(4));
  const event_id = [...words].map((word) => word.toString(16).padStart(8, "0")).join("");
  const facts = { ...(day.country ? { country: day.country } : {}), ...(day.age ? { age: day.age } : {}) };
  const event = { event_id, user_id: guest, ts: new Date().toISOString(), kind, entity, id, listener: facts, ...(seconds ? { seconds } : {}) };
  rememberLater(async () => {
    const result = (await call("v1/events", { events: [event] })).events[0];
    if (result.status === "refused") throw new Error(result.message);
  });
  return event_id;
}

const daysPath = (rest = "") => `v1/users/${encodeURIComponent(guest)}/events${rest}`;
const undoEvent = (event_id) => event_id && rememberLater(() => call(daysPath(`/${event_id}`), null, null, "DELETE"));

// The day that the service remembers, with the names of what it is about.
async function restoreDay() {
  const stored = await call(daysPath());
  day = { ...emptyDay(), country: stored.country, age: stored.age };
  const found = new Map();
  await Promise.all([...new Set(stored.events.map((one) => `${one.entity}s/${encodeURIComponent(one.id)}`))].map(async (path) => {
    found.set(path, await call(`v1/${path}`).then((entity) => entity.name, () => null)); // not in the release in service
  }));
  for (const one of stored.events) {
    const name = found.get(`${one.entity}s/${encodeURIComponent(one.id)}`), event_id = one.event_id;
    const track = { track_id: one.id, title: name, artist: null, artist_id: "", event_id };
    if (one.kind === "onboarding") day.artists = [...day.artists.filter((id) => id !== one.id), one.id];
    if (one.entity === "artist") names.artists.set(one.id, name || `Artist ${one.id}`);
    if (one.kind === "onboarding") pickedEvents.set(one.id, event_id);
    else if (one.kind === "ban" && one.entity === "artist") day.neverArtists.push({ artist_id: one.id, artist: name, event_id });
    else if (one.entity === "track" && KINDS[one.kind]) day[KINDS[one.kind]].push(track);
  }
  byId("country").value = day.country || "";
  byId("age").value = day.age || "";
}

function listOptions(method) {
  const limit = byId("per-artist").value;
  return {
    k: PAGE_LENGTH, method, diversity: Number(byId("list-diversity").value) || null,
    ...(limit === "" ? {} : { per_artist: limit === "none" ? null : Number(limit) }),
  };
}

// Each request contains the whole day, so an earlier request that is delayed or running is cancelled.
async function updateLists(action) {
  if (action) unannounced.push(action);
  clearTimeout(requestTimer);
  if (runningRequest) runningRequest.abort();
  const controller = (runningRequest = new AbortController());
  const body = listener(), actions = [...unannounced], compared = byId("compare").value;
  const request = { listener: body, ...listOptions(byId("method").value || "configured") };
  try {
    const [list, other, playlists] = await Promise.all([
      call("v1/recommendations", { ...request, explain: true }, controller.signal),
      compared ? call("v1/recommendations", { listener: body, ...listOptions(compared) }, controller.signal) : null,
      call("v1/carousels", { listener: body, diversity: Number(byId("diversity").value), n_nearest_tracks: 2 }, controller.signal).catch((error) => {
        if (error.name === "AbortError") throw error;
        return error; // the list is shown without the carousel
      }),
    ]);
    if (runningRequest !== controller) return; // a newer request replaced this one
    const failed = playlists instanceof Error;
    showError(failed ? playlists : null);
    shownRequest = request;
    showList(list);
    showOther(other, list);
    showUnknown(list);
    showShort(list);
    showReasons(list);
    showPlaylists(failed ? null : playlists);
    byId("release").textContent = `Release ${list.release.slice(0, 12)}, week ${list.week}, ${list.space}, ${METHODS[list.method] || list.method}`;
    unannounced = unannounced.slice(actions.length);
    const distinct = actions.filter((word, i) => word !== actions[i - 1]); // an age is typed digit by digit
    if (actions.length) byId("announcement").textContent = `${distinct.join(". ")}. First now: ${title(list.tracks[0])}. ${list.reasons.text}`;
  } catch (error) {
    if (error.name !== "AbortError") showError(error);
  }
}

function updateListsSoon(action, wait) {
  if (action) unannounced.push(action);
  clearTimeout(requestTimer);
  requestTimer = setTimeout(updateLists, wait);
}

const title = (track) => (track ? track.title || `Track ${track.track_id}` : "nothing");
const artist = (track) => track.artist || `Artist ${track.artist_id}`;

function trackRow(track, place, isNew, acts) {
  return make("li", { class: isNew ? "new" : null },
    make("span", { class: "place" }, String(place)), colours(make("span", { class: "tile", "aria-hidden": "true" }), track.artist_id),
    make("div", { class: "name" }, make("b", {}, title(track)), make("span", {}, artist(track) + (track.new_release ? ", new release" : ""))), acts);
}

function showList(list) {
  const focused = document.activeElement?.dataset?.act ? document.activeElement.dataset : null;
  const before = new Set(shownTracks.map((track) => track.track_id));
  byId("tracks").replaceChildren(...list.tracks.map((track, i) => {
    names.tracks.set(track.track_id, title(track));
    names.artists.set(track.artist_id, artist(track));
    const acts = Object.keys(SIGNALS).map((act) => {
      const on = day[act].some((other) => other.track_id === track.track_id);
      const button = make("button", {
        type: "button", class: act === "bans" ? "ban" : null, "aria-pressed": act === "bans" ? null : String(on),
        "aria-label": `${{ streams: "Play", favourites: "Like", skips: "Skip", bans: "Ban" }[act]} ${title(track)}`,
        title: { streams: "Play", favourites: "Like", skips: "Skip", bans: "Ban" }[act], onclick: () => toggle(act, track),
      }, icon(act));
      button.dataset.act = act;
      button.dataset.place = String(i);
      return button;
    });
    const never = make("button", {
      type: "button", class: "ban never", "aria-label": `Never ${artist(track)}`, title: `Never ${artist(track)}`,
      onclick: () => neverArtist(track),
    }, icon("never"));
    never.dataset.act = "never";
    never.dataset.place = String(i);
    const isNew = shownTracks.length > 0 && !before.has(track.track_id);
    return trackRow(track, i + 1, isNew, make("div", { class: "acts" }, ...acts, never));
  }));
  shownTracks = list.tracks;
  nextPage = list.cursor;
  byId("more").hidden = !nextPage;
  // Keyboard focus stays at the same position and button.
  if (focused) byId("tracks").querySelector(`[data-act="${focused.act}"][data-place="${Math.min(Number(focused.place), shownTracks.length - 1)}"]`)?.focus();
  byId("fallback").hidden = !list.degraded;
  byId("fallback").textContent = list.degraded ? `Fallback: ${list.degraded.fallback.replaceAll("_", " ")}. Reason: ${list.degraded.reason}` : "";
}

// The list of another method for the same day, with the tracks that only one of both lists has marked.
function showOther(other, list) {
  byId("other").hidden = byId("own-title").hidden = !other;
  byId("list").classList.toggle("comparing", Boolean(other));
  if (!other) return;
  const common = new Set(list.tracks.map((track) => track.track_id));
  const shared = other.tracks.filter((track) => common.has(track.track_id)).length;
  byId("own-title").textContent = METHODS[list.method] || list.method;
  byId("other-title").textContent = `${METHODS[other.method] || other.method}: ${shared} of ${other.tracks.length} tracks in both`;
  byId("other-tracks").replaceChildren(...other.tracks.map((track, i) => trackRow(track, i + 1, false,
    make("span", { class: "only" }, common.has(track.track_id) ? "in both" : "only here"))));
}

// Why the list is shorter than requested, or why an artist has more places than the limit allows.
function showShort(list) {
  const notes = [
    list.short ? `The list is shorter than requested: ${list.short}.` : "",
    list.relaxed ? "The limit per artist was raised, because the catalogue cannot fill the list under it." : "",
  ].filter(Boolean);
  byId("short").hidden = !notes.length;
  byId("short").textContent = notes.join(" ");
}

async function showMore() {
  if (!nextPage || !shownRequest) return;
  try {
    const page = await call("v1/recommendations", { ...shownRequest, cursor: nextPage });
    const first = shownTracks.length;
    showList({ ...page, tracks: [...shownTracks, ...page.tracks] });
    showShort(page);
    byId("tracks").children[first]?.querySelector("button")?.focus();
    byId("announcement").textContent = `${page.tracks.length} more tracks`;
  } catch (error) {
    if (error.status === 422) await updateLists(); // another release is in service now: the list begins again
    else showError(error);
  }
}

function neverArtist(track) {
  if (!day.neverArtists.some((one) => one.artist_id === track.artist_id)) {
    day.neverArtists = [...day.neverArtists, { ...track, event_id: remember("ban", "artist", track.artist_id) }];
  }
  showDay();
  updateLists(`Never ${artist(track)}`);
}

// Ids that the release does not contain have no effect: without this note, a click would do nothing visible.
function showUnknown(list) {
  const entries = Object.entries(list.unknown);
  byId("unknown").hidden = !entries.length;
  byId("unknown").textContent = entries.length ? `Ignored, because this release does not contain it: ${entries.map(([signal, ids]) =>
    `${signal.replace(".", ": ")} ${ids.map((id) => names[signal.split(".")[1]]?.has(id) ? `${names[signal.split(".")[1]].get(id)} (${id})` : id).join(", ")}`).join("; ")}` : "";
}

function showReasons(list) {
  byId("reason").textContent = list.reasons.text;
  const card = list.segment ? list.segment.card : {};
  const traits = ["ages", "countries", "genres", "artists"].map((kind) => [kind, (card[kind] || []).filter((trait) => trait.lift > 1)]);
  byId("card").replaceChildren(...traits.filter(([, entries]) => entries.length).flatMap(([name, entries]) => [
    make("h3", {}, `Often in segment ${list.segment.segment_id}: ${name}`),
    ...entries.map((trait) => make("div", { class: "trait" }, make("span", {}, name === "countries" ? country(trait.name) : trait.name),
      make("i", {}, `${Math.round(trait.share * 100)} %, ${trait.lift.toFixed(1)} times as often`),
      make("meter", { min: 0, max: 1, value: trait.share, "aria-label": `share of ${trait.name}: ${Math.round(trait.share * 100)} %` }))),
  ]));
  const signals = list.reasons.top_signals || [];
  const most = signals.length ? signals[0].contribution : 1;
  byId("signals").replaceChildren(...(signals.length ? signals.map((one) => make("li", { class: "contribution" }, make("span", {}, signalName(one)),
    make("small", {}, one.signal.replace(".", ": ")), make("meter", { min: 0, max: most, value: one.contribution, "aria-label": "contribution" })))
    : [make("li", {}, make("small", {}, "Nothing yet: enter your country or age, pick artists, or play a track"))]));
}

function signalName(one) {
  if (one.signal === "age") return `age ${one.id}`;
  if (one.signal === "country") return country(one.id);
  const kind = one.signal.split(".")[1];
  return one.name || names[kind]?.get(one.id) || `${kind.slice(0, -1)} ${one.id}`;
}

function showPlaylists(carousel) {
  byId("playlists").hidden = !carousel?.playlists.length;
  if (!carousel) return;
  byId("carousel").replaceChildren(...carousel.playlists.map((one) => make("li", {},
    colours(make("div", { class: "cover" }, [...new Set(one.nearest_tracks.map(artist))].join(", ") || "Playlist"), one.playlist_id),
    make("p", {}, `Playlist ${one.playlist_id}${one.nearest_tracks.length ? `, similar to ${one.nearest_tracks.map(title).join(" and ")}` : ""}`),
    make("meter", { min: 0, max: 1, value: one.exposure, title: `seen by ${Math.round(one.exposure * 100)} %`, "aria-label": `seen by ${Math.round(one.exposure * 100)} percent` }))));
  byId("playlists-note").textContent = `Bars: estimated share of listeners who look at each position (${carousel.exposure_model}). Mean relevance to you, weighted by this share: ${carousel.expected_relevance.toFixed(2)}. Mean similarity between playlists: ${carousel.similarity.toFixed(2)}.`;
}

function toggle(act, track) {
  const there = day[act].some((other) => other.track_id === track.track_id);
  if (there && act !== "streams") {
    for (const other of day[act]) if (other.track_id === track.track_id) undoEvent(other.event_id);
    day[act] = day[act].filter((other) => other.track_id !== track.track_id);
  } else {
    const event_id = remember(EVENT_KINDS[act], "track", track.track_id, act === "streams" ? PLAYED_S : null);
    day[act] = [...day[act], { ...track, event_id }];
  }
  showDay();
  updateLists(`${title(track)} ${there && act !== "streams" ? "not " : ""}${SIGNALS[act]}`);
}

function showDay() {
  const kinds = [...Object.entries(SIGNALS), ["neverArtists", "never"]];
  const label = (act, track) => (act === "neverArtists" ? `never ${artist(track)}` : title(track));
  const lines = kinds.flatMap(([act, word]) => day[act].map((track, i) => make("li", {}, icon(act === "neverArtists" ? "bans" : act),
    make("span", {}, label(act, track)),
    make("button", { type: "button", "aria-label": `Undo: ${act === "neverArtists" ? "" : `${word} `}${label(act, track)}`, onclick: (event) => {
      const place = [...byId("day").querySelectorAll("button")].indexOf(event.currentTarget);
      undoEvent(track.event_id);
      day[act] = day[act].filter((_, other) => other !== i);
      showDay();
      updateLists(`Undone: ${label(act, track)}`);
      // Focus never moves to "Start again": one more Enter would reset the whole day.
      const left = byId("day").querySelectorAll("button");
      (left[Math.min(place, left.length - 1)] || byId("day")).focus();
    } }, "×"))));
  for (const line of lines) line.querySelector("svg").setAttribute("width", "14");
  byId("day").replaceChildren(...(lines.length ? lines : [make("li", { class: "none" }, "Nothing played yet")]));
}

function country(code) {
  try {
    return new Intl.DisplayNames(["en"], { type: "region" }).of(code) || code;
  } catch {
    return code;
  }
}

async function showArtists() {
  if (runningSearch) runningSearch.abort(); // a slow answer must not replace the results of a newer search
  const controller = (runningSearch = new AbortController());
  const text = byId("artist-search").value.trim();
  let results;
  try {
    results = (await call(`v1/search?kind=artists&limit=24&q=${encodeURIComponent(text)}`, null, controller.signal)).results;
  } catch (error) {
    if (error.name === "AbortError") return;
    throw error;
  }
  if (runningSearch !== controller) return;
  for (const one of results) names.artists.set(one.id, one.name || `Artist ${one.id}`);
  const picked = day.artists.map((id) => ({ id, name: names.artists.get(id) }));
  const others = results.filter((one) => !day.artists.includes(one.id));
  const focused = document.activeElement?.dataset?.artist;
  byId("artists").replaceChildren(...[...picked, ...others].map((one) => {
    const on = day.artists.includes(one.id);
    const button = make("button", { type: "button", "aria-pressed": String(on), title: one.genre || null, onclick: () => {
      const now = day.artists.includes(one.id);
      day.artists = now ? day.artists.filter((id) => id !== one.id) : [...day.artists, one.id];
      if (now) undoEvent(pickedEvents.get(one.id));
      else pickedEvents.set(one.id, remember("onboarding", "artist", one.id));
      button.setAttribute("aria-pressed", String(!now));
      updateLists(`${button.textContent} ${now ? "no longer picked" : "picked"}`);
    } }, one.name || `Artist ${one.id}`);
    button.dataset.artist = one.id;
    return button;
  }));
  if (focused) (byId("artists").querySelector(`[data-artist="${CSS.escape(focused)}"]`) || byId("artist-search")).focus();
}

async function start() {
  try {
    const release = await call("v1/release");
    const codes = release.countries.map((code) => [country(code), code]).sort();
    byId("country").replaceChildren(make("option", { value: "" }, "not given"), ...codes.map(([name, code]) => make("option", { value: code }, name)));
    const methods = (names) => names.map((name) => make("option", { value: name }, METHODS[name] || name));
    byId("method").replaceChildren(...methods(["configured", ...release.methods]));
    byId("compare").replaceChildren(make("option", { value: "" }, "nothing"), ...methods(release.methods));
    if (guest) await restoreDay().catch(showRemembered); // without it, the page begins with an empty day
    else newGuest(release.ids.user);
    userForm = release.ids.user;
    await showArtists();
    showDay();
    await updateLists();
  } catch (error) {
    showError(error);
  }
}

byId("country").addEventListener("change", () => { day.country = byId("country").value || null; updateLists("Country changed"); });
byId("age").addEventListener("input", () => {
  day.age = byId("age").value === "" || !byId("age").checkValidity() ? null : Number(byId("age").value);
  updateListsSoon("Age changed", 250);
});
let searchTimer = 0;
byId("artist-search").addEventListener("input", () => {
  clearTimeout(searchTimer);
  searchTimer = setTimeout(() => showArtists().catch(showError), 200);
});
byId("method").addEventListener("change", () => updateLists("Method changed"));
byId("compare").addEventListener("change", () => updateLists("Comparison changed"));
byId("per-artist").addEventListener("change", () => updateLists("Limit per artist changed"));
byId("list-diversity").addEventListener("input", () => updateListsSoon(null, 120));
byId("more").addEventListener("click", showMore);
byId("diversity").addEventListener("input", () => updateListsSoon(null, 120));
byId("reset").addEventListener("click", () => {
  const path = daysPath();
  rememberLater(() => call(path, null, null, "DELETE"));
  newGuest(userForm);
  pickedEvents.clear();
  day = emptyDay();
  for (const id of ["country", "age", "artist-search"]) byId(id).value = "";
  showArtists().catch(showError);
  showDay();
  updateLists("Started again");
});
byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  key = byId("key-value").value;
  sessionStorage.setItem("key", key);
  start();
});
start();
