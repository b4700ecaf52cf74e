// The page of an exported model: ids and dense values in, click probability and latency out. Every file that it loads
// lies beside it.

const find = (id) => document.getElementById(id);
const transforms = {
  identity: (value) => value,
  "log1p": (value) => Math.log1p(value),
  "log(x+3)": (value) => Math.log(value + 3),
};
const TIMED_RUNS = 50;
let ort, facts, session;

start().catch((fault) => fail(fault.message));

async function start() {
  facts = await (await fetch("model.json")).json();
  drawFields();
  ort = await import("./runtime/ort.wasm.bundle.min.mjs").catch(() => {
    throw new Error("The folder runtime lacks onnxruntime-web; export again with --web-runtime.");
  });
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { wasm: new URL("runtime/ort-wasm-simd-threaded.wasm", location.href).href };
  session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  await prove();
  fillFrom(0);
  find("inputs").addEventListener("input", () => answer());
  find("inputs").addEventListener("submit", (event) => event.preventDefault());
  find("random").addEventListener("click", () => fillFrom(Math.floor(Math.random() * facts.golden.logits.length)));
  find("measure").addEventListener("click", measure);
  for (const button of document.querySelectorAll("button")) button.disabled = false;
}

function drawFields() {
  const { tables, name, input_names: names } = facts.network;
  const feeds = facts.network.table_inputs ?? tables.map((_, number) => number);
  const kinds = { ids: "one id", bags: "ids, with commas", "weighted-bags": "id*weight, with commas" };
  for (let input = 0; input <= Math.max(...feeds); input += 1) {
    const rows = Math.min(...tables.filter((_, number) => feeds[number] === input).map((table) => table[0]));
    const label = names?.[input] ?? `C${input + 1}`;
    drawField("ids", `ids_${input}`, label, `0 to ${(rows - 1).toLocaleString("en")}`, kinds[facts.inputs]);
  }
  for (let input = 0; input < facts.dense; input += 1) drawField("dense", `dense_${input}`, `I${input + 1}`, "", "");
  find("dense").hidden = facts.dense === 0;
  find("about").textContent = `A compressed ${name} model of ${tables.length} tables, running in this browser.`;
  find("facts").textContent =
    `Model ${facts.bytes.toLocaleString("en")} bytes, made from artifact ${facts.artifact}. Dense values are raw; ` +
    `the page transforms them (${facts.network.dense_transform ?? "log1p"}). Nothing that you enter leaves this page.`;
}

function drawField(group, id, name, range, title) {
  const label = document.createElement("label");
  const caption = document.createElement("span");
  const input = document.createElement("input");
  caption.textContent = caption.title = name;
  Object.assign(input, { id, title, autocomplete: "off", inputMode: group === "dense" ? "decimal" : "text" });
  label.append(caption, input);
  if (range) {
    const hint = document.createElement("small");
    hint.textContent = range;
    label.append(hint);
  }
  find(group).querySelector(".fields").append(label);
}

// Golden samples: their dense values are as the network takes them.
async function prove() {
  const { feeds, logits } = facts.golden;
  const found = await run(Object.fromEntries(Object.entries(feeds).map(([name, value]) => [name, tensorOf(name, value)])));
  const apart = logits.map((logit, number) => Math.abs(found[number] - logit) / Math.max(1, Math.abs(logit)));
  const largest = Math.max(...logits.map(Math.abs));
  const allowed = logits.map((logit) => facts.tolerance + (facts.rounding * largest) / Math.max(1, Math.abs(logit)));
  const sound = apart.every((one, number) => one <= allowed[number]);
  const worst = Math.max(...apart);
  find("proof").textContent =
    sound
      ? `${logits.length} samples agree with the artifact to ${worst.toExponential(1)}`
      : `differs from the artifact by ${worst.toExponential(1)}`;
  if (!sound) throw new Error("This browser computes another model than the artifact.");
}

function tensorOf(name, value) {
  const shape = Array.isArray(value[0]) ? [value.length, value[0].length] : [value.length];
  const flat = value.flat();
  return /^(ids|offsets)/.test(name)
    ? new ort.Tensor("int64", BigInt64Array.from(flat, BigInt), shape)
    : new ort.Tensor("float32", Float32Array.from(flat), shape);
}

async function run(feeds) {
  return Array.from((await session.run(feeds)).logit.data);
}

function fillFrom(sample) {
  const { feeds } = facts.golden;
  for (const field of document.querySelectorAll("#ids input")) {
    const number = Number(field.id.split("_")[1]);
    if (feeds.ids) field.value = feeds.ids[sample][number];
    else field.value = readBag(feeds, number, sample);
  }
  for (const field of document.querySelectorAll("#dense input")) field.value = Math.floor(Math.random() * 20);
  answer();
}

function readBag(feeds, number, sample) {
  const offsets = feeds[`offsets_${number}`] ?? feeds[`ids_${number}`].map((_, place) => place);
  const [first, last] = [offsets[sample], offsets[sample + 1]];
  const weights = feeds[`weights_${number}`]?.slice(first, last);
  const ids = feeds[`ids_${number}`].slice(first, last);
  return ids.map((id, place) => (weights ? `${id}*${weights[place].toFixed(2)}` : id)).join(", ");
}

// What stands in the fields, as tensors; an Error names the first field that holds something else.
function readFeeds() {
  const transform = transforms[facts.network.dense_transform ?? "log1p"];
  const dense = [...document.querySelectorAll("#dense input")].map((field) => transform(readNumber(field, field.value)));
  const feeds = { dense: tensorOf("dense", [dense]) };
  const bags = [...document.querySelectorAll("#ids input")].map(readIds);
  if (facts.inputs === "ids") {
    feeds.ids = tensorOf("ids", [bags.map((bag) => bag.ids[0])]);
    return feeds;
  }
  bags.forEach((bag, number) => {
    feeds[`ids_${number}`] = tensorOf("ids", bag.ids);
    if (!facts.golden.feeds[`offsets_${number}`]) return;
    feeds[`offsets_${number}`] = tensorOf("offsets", [0]);
    if (facts.inputs === "weighted-bags") feeds[`weights_${number}`] = tensorOf("weights", bag.weights);
  });
  return feeds;
}

function readIds(field) {
  const parts = field.value.split(",").map((part) => part.trim()).filter((part) => part !== "");
  const pattern = facts.inputs === "weighted-bags" ? /^(-?\d+)(?:\s*\*\s*(\S+))?$/ : /^(-?\d+)$/;
  const found = parts.map((part) => part.match(pattern));
  const single = facts.inputs === "ids" || !facts.golden.feeds[`offsets_${field.id.split("_")[1]}`];
  if (found.includes(null) || (single && found.length !== 1)) refuse(field, single ? "one whole number" : field.title);
  field.setCustomValidity("");
  return {
    ids: found.map((match) => BigInt.asIntN(64, BigInt(match[1]))),
    weights: found.map((match) => (match[2] === undefined ? 1 : readNumber(field, match[2]))),
  };
}

function readNumber(field, text) {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) refuse(field, "a number");
  field.setCustomValidity("");
  return value;
}

function refuse(field, expected) {
  field.setCustomValidity(`expected ${expected}`);
  throw new Error(`${field.previousElementSibling.textContent}: expected ${expected}.`);
}

async function answer() {
  try {
    const feeds = readFeeds();
    const began = performance.now();
    const [logit] = await run(feeds);
    showLatency(performance.now() - began);
    if (Number.isNaN(logit)) throw new Error("An id is outside its table, and this model takes none from there.");
    const probability = 1 / (1 + Math.exp(-logit));
    find("probability").textContent = `${(100 * probability).toFixed(2)} %`;
    find("share").style.width = `${100 * probability}%`;
    find("logit").textContent = logit.toFixed(6);
    find("logit").dataset.value = logit;
    find("message").textContent = "";
  } catch (fault) {
    fail(fault.message);
  }
}

async function measure() {
  try {
    const feeds = readFeeds();
    const times = [];
    for (let turn = 0; turn < TIMED_RUNS; turn += 1) {
      const began = performance.now();
      await run(feeds);
      times.push(performance.now() - began);
    }
    showLatency(times.sort((one, other) => one - other)[TIMED_RUNS / 2], ` (median of ${TIMED_RUNS})`);
  } catch (fault) {
    fail(fault.message);
  }
}

function showLatency(milliseconds, how = "") {
  find("latency").textContent = `${milliseconds.toFixed(2)} ms${how}`;
}

function fail(message) {
  find("probability").textContent = find("logit").textContent = "–";
  find("share").style.width = "0";
  delete find("logit").dataset.value;
  find("message").textContent = message;
}
