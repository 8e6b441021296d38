"use strict";
// The API's description, openapi.json, as a page on which each operation can be tried. It loads nothing from other hosts.

const VALUES = { kind: "tracks", q: "", limit: "5", k: "5" };

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function body(api, operation) {
  const content = operation.requestBody?.content["application/json"];
  if (!content) return null;
  const schema = api.components.schemas[content.schema.$ref.split("/").pop()];
  return JSON.stringify(schema.example || {}, null, 2);
}

function operation(api, path, method, description) {
  const inputs = (description.parameters || []).map((one) => [one, make("input", { value: one.required ? VALUES[one.name] || "0" : "", placeholder: String(one.schema.default ?? "") })]);
  const example = body(api, description);
  const text = example === null ? null : make("textarea", { spellcheck: "false", "aria-label": "Body" });
  if (text) text.value = example;
  const answer = make("pre", { hidden: "" });
  const send = make("button", { type: "button" }, "Send");
  send.addEventListener("click", async () => {
    const query = new URLSearchParams();
    let url = path;
    for (const [one, input] of inputs) {
      if (one.in === "path") url = url.replace(`{${one.name}}`, encodeURIComponent(input.value));
      else if (input.value !== "") query.set(one.name, input.value);
    }
    const key = document.getElementById("key").value;
    const headers = { ...(text ? { "content-type": "application/json" } : {}), ...(key ? { "x-api-key": key } : {}) };
    const response = await fetch(url.slice(1) + (query.size ? `?${query}` : ""), { method: method.toUpperCase(), headers, body: text?.value });
    const plain = await response.text();
    let shown = plain;
    try { shown = JSON.stringify(JSON.parse(plain), null, 2); } catch { /* the metrics page is not JSON */ }
    answer.textContent = `${response.status} ${response.headers.get("x-overture-release") || ""}\n${shown}`;
    answer.hidden = false;
  });
  return make("details", {}, make("summary", {}, make("code", {}, `${method.toUpperCase()} ${path}`), ` ${description.summary ? description.description || description.summary : ""}`),
    ...inputs.map(([one, input]) => make("label", {}, `${one.name}${one.required ? "" : " (optional)"} ${one.description || ""} `, input)),
    ...(text ? [text] : []), send, answer);
}

(async () => {
  const api = await (await fetch("openapi.json")).json();
  document.getElementById("about").textContent = api.info.description;
  document.getElementById("operations").append(...Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, description]) => operation(api, path, method, description))));
})();
