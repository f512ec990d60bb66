// The story that test_vendor_javascript.py lets the vendor's JavaScript client tell.
//
// It asserts nothing: it prints what it saw, one JSON object a line, each with its "step".
// The host is named by the environment; the argument is a service to run in a sandbox.

import { readFileSync } from "node:fs";
import { SandboxClient, ServiceLoginUrl } from "langsmith/sandbox";

const client = new SandboxClient();
const GIB = 2 ** 30;

function tell(step, seen) {
  console.log(JSON.stringify({ step, ...seen }));
}

async function outcome(call) {
  try {
    await call();
    return { error: null };
  } catch (error) {
    const { message, resourceType, lastStatus, field, operation, errorType } = error;
    const name = error.name === "Error" ? error.constructor.name : error.name;
    return { error: name, message, resourceType, lastStatus, field, operation, errorType };
  }
}

async function all(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

function seen(sandbox) {
  const { _client, ...fields } = sandbox;
  return fields;
}

// --- sandboxes

const box = await client.createSandbox({
  name: "js-story",
  labels: { team: "red" },
  idleTtlSeconds: 120,
  deleteAfterStopSeconds: 0,
  vCpus: 2,
  memBytes: 5 * GIB,
  fsCapacityBytes: 3 * GIB,
  runConfig: { work_dir: "/tmp", env_vars: { A: "made" } },
  accessDelegation: { mode: "INHERIT" },
});
const listed = (await client.listSandboxes()).find((each) => each.id === box.id);
tell("made", {
  made: seen(box),
  got: seen(await client.getSandbox(box.name)),
  listed: seen(listed),
  status: await client.getSandboxStatus(box.name),
});

// --- commands

const called = { stdout: "", stderr: "" };
const withCallbacks = await box.run("echo out; echo err >&2", {
  onStdout: (text) => (called.stdout += text),
  onStderr: (text) => (called.stderr += text),
});
const typed = await box.run("read line; echo $line", { wait: false, closeInput: false });
typed.sendInput("typed\n");
const chunks = await all(typed);
const killed = await box.run("echo begun; sleep 1000", { wait: false, timeout: 0 });
const output = killed[Symbol.asyncIterator]();
await output.next();
killed.kill();
tell("ran", {
  plain: await box.run("echo $PWD $A; echo err >&2; exit 3"),
  env: await box.run("echo $PWD $B", { env: { B: "b" }, cwd: "/usr" }),
  called,
  withCallbacks,
  chunks,
  typed: await typed.result,
  again: await (await box.reconnect(typed.commandId)).result,
  killed: await killed.result,
});

// --- files

const bytes = Uint8Array.from({ length: 300_000 }, (_, index) => index % 251);
const files = {};
for (const name of ["plain.bin", "with space", "grüße-日本", "100%2Fslash"]) {
  await box.write(`/home/user/${name}`, bytes);
  files[name] = Buffer.compare(await box.read(`/home/user/${name}`), bytes) === 0;
}
await box.write("/home/user/text", "grüße");
tell("files", { files, text: new TextDecoder().decode(await box.read("/home/user/text")) });

// --- lifecycle

const changed = await client.updateSandbox(box.name, {
  newName: "js-story-new",
  idleTtlSeconds: 600,
  runConfig: { env_vars: { ADDED: "yes" } },
});
const echoed = await changed.run("echo $A $ADDED");
await changed.stop();
const stopped = await client.getSandboxStatus(changed.name);
await changed.start();
const early = await client.createSandbox({ waitForReady: false });
const ready = await client.waitForSandbox(early.name, { pollInterval: 0.02 });
tell("lifecycle", {
  changed: seen(changed),
  echoed,
  stopped,
  kept: new TextDecoder().decode(await changed.read("/home/user/text")),
  early: seen(early),
  ready: seen(ready),
});
await client.updateSandbox(changed.name, "js-story");

// --- snapshots

await box.write("/home/user/file", "captured");
const runConfig = { env_vars: { FROM: "js" } };
const running = await box.captureSnapshot("js/running", { runConfig });
await client.stopSandbox(ready.name);
const atRest = await client.captureSnapshot(ready.name, "js/stopped");
const copies = [];
for (const source of [
  running.id,
  { snapshotName: "js/running" },
  { snapshotName: "js/running:latest" },
]) {
  const copy = await client.createSandbox(source);
  const content = new TextDecoder().decode(await copy.read("/home/user/file"));
  copies.push({ snapshot: copy.snapshot_id, content, from: (await copy.run("echo $FROM")).stdout });
  await copy.delete();
}
const references = {};
for (const reference of [running.id, "js/running", "js/running:latest"]) {
  references[reference] = (await client.getSnapshot(reference)).id;
}
const ids = async (options) => (await client.listSnapshots(options)).map((each) => each.id);
tell("snapshots", {
  running,
  atRest,
  copies,
  references,
  all: await ids({ nameContains: "JS/" }),
  first: await ids({ nameContains: "js/", limit: 1 }),
  second: await ids({ nameContains: "js/", limit: 1, offset: 1 }),
  failed: await outcome(() => client.createSnapshot("js/none", "oci:/no-such-image", GIB)),
});
for (const each of await client.listSnapshots({ nameContains: "js/" })) {
  await client.deleteSnapshot(each.id);
}
tell("forgotten", { left: await ids({ nameContains: "js/" }) });

// --- services and links

await box.write("/home/user/service.py", readFileSync(process.argv[2]));
const serve = "exec python3 /home/user/service.py 8000";
const serving = await box.run(serve, { wait: false, timeout: 0 });
await serving[Symbol.asyncIterator]().next();
const embedOrigins = ["https://site.example"];
const service = await client.serviceUrl(box.name, { port: 8000, embedOrigins });
const short = await client.serviceUrl(box.name, { port: 8000, expiresInSeconds: 30 });
const headers = { "X-Own": "1" };
const posted = await service.fetch("/a%20b?q=1", { method: "POST", body: "hi", headers });
const page = await service.fetch("/page");
const bare = await fetch(await service.serviceUrl());
const nothing = await (await client.serviceUrl(box.name, { port: 9 })).fetch("/");
tell("service", {
  posted: await posted.json(),
  page: { status: page.status, type: page.headers.get("content-type") },
  short: (await short.fetch("/page")).status,
  bare: bare.status,
  nothing: nothing.status,
  embed: { url: await service.embedUrl(), origins: service.embedOrigins },
});

const login = await client.serviceUrl(box.name, { port: 8000, access: "workspace" });
tell("login", {
  isLogin: login instanceof ServiceLoginUrl,
  access: login.access,
  url: login.url,
  tokens: (await service.fetch("/page")).status,
  refused: await outcome(() => client.serviceUrl(box.name, { port: 8000 })),
});

const link = await client.generateDownloadURL(box.name, "/home/user/plain.bin", {
  expiresInSeconds: 3600,
  contentType: "image/png",
  contentDisposition: "attachment",
});
const download = await fetch(link.download_url);
tell("link", {
  status: download.status,
  same: Buffer.compare(new Uint8Array(await download.arrayBuffer()), bytes) === 0,
  type: download.headers.get("content-type"),
  disposition: download.headers.get("content-disposition"),
  expires: link.expires_at,
  forEver: (await box.generateDownloadURL("/home/user/text")).expires_at,
});

// --- registries

const registry = await client.registries.create({
  name: "js-registry",
  url: "https://registry.example",
  username: "me",
  password: "secret-word",
});
const moved = await client.registries.update("js-registry", {
  name: "js-registry-new",
  url: "https://other.example",
});
const registries = await client.registries.list({ name_contains: "js-registry" });
const retrieved = await client.registries.retrieve("js-registry-new");
await client.registries.delete("js-registry-new");
tell("registries", {
  registry,
  moved,
  retrieved,
  listed: registries.registries,
  gone: await outcome(() => client.registries.retrieve("js-registry-new")),
});

// --- what goes wrong

const stranger = new SandboxClient({ apiKey: "wrong" });
const lost = new SandboxClient({ apiEndpoint: `${process.env.LANGSMITH_ENDPOINT}/elsewhere` });
const mistakes = {
  "get nothing": () => client.getSandbox("none"),
  "delete nothing": () => client.deleteSandbox("none"),
  "start nothing": () => client.startSandbox("none"),
  "no such snapshot": () => client.getSnapshot("none:v1"),
  "a name that is taken": () => client.createSandbox({ name: box.name }),
  "a new name that is taken": () => client.updateSandbox(ready.name, box.name),
  "a name that cannot be": () => client.createSandbox({ name: "A b" }),
  "from no snapshot": () => client.createSandbox({ snapshotName: "none" }),
  "no time to get ready": () => client.createSandbox({ timeout: 0 }),
  "wait for a stopped one": () => client.waitForSandbox(ready.name, { timeout: 0.02 }),
  "the system's names": () => client.captureSnapshot(box.name, "system/x"),
  "a limit out of range": () => client.listSnapshots({ limit: 501 }),
  "read nothing": () => box.read("/nowhere"),
  "read a directory": () => box.read("/tmp"),
  "write a directory": () => box.write("/tmp", ""),
  "no such shell": () => box.run("true", { shell: "/no/shell" }),
  "a wrong key": () => stranger.listSandboxes(),
  "a wrong address": () => lost.listSandboxes(),
};
for (const [what, call] of Object.entries(mistakes)) tell(what, await outcome(call));

serving.kill();
await client.deleteSandbox(ready.name);
await box.delete();
tell("a command for what is gone", await outcome(() => box.run("true")));
const left = (await client.listSandboxes()).map((each) => each.id);
tell("end", { left: left.filter((id) => [box.id, ready.id].includes(id)) });
