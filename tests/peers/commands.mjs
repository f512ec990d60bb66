// The stories of commands that test_vendor_commands_javascript.py lets the vendor's JavaScript
// client tell. All are told at once, in one sandbox.
//
// They assert nothing: each prints what it saw, one JSON object a line, with its name as "step".
// The host is named by the environment. With the argument "start" this is another process: it
// starts one command, says what it is called, and ends without a goodbye.

import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { SandboxClient } from "langsmith/sandbox";

const client = new SandboxClient();

function tell(step, seen) {
  console.log(JSON.stringify({ step, ...seen }));
}

async function outcome(call) {
  try {
    await call();
    return { error: null };
  } catch (error) {
    const { message, operation, errorType } = error;
    const name = error.name === "Error" ? error.constructor.name : error.name;
    return { error: name, message, operation, errorType };
  }
}

async function all(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

async function readUntil(chunks, lastWords) {
  let text = "";
  while (!text.endsWith(lastWords)) text += (await chunks.next()).value.data;
  return text;
}

const iterate = (handle) => handle[Symbol.asyncIterator]();

// --- another process

if (process.argv[2] === "start") {
  const [name, command, options] = process.argv.slice(3);
  const there = await client.getSandbox(name);
  const handle = await there.run(command, { ...JSON.parse(options), wait: false });
  const chunks = iterate(handle);
  while (!handle.lastStdoutOffset) await chunks.next();
  const { commandId, pid, lastStdoutOffset } = handle;
  console.log(JSON.stringify({ commandId, pid, offset: lastStdoutOffset }));
  process.exit(0);
}

const box = await client.createSandbox();

async function elsewhere(command, options) {
  const script = fileURLToPath(import.meta.url);
  const told = [script, "start", box.name, command, JSON.stringify(options)];
  return JSON.parse((await promisify(execFile)(process.execPath, told)).stdout);
}

const endOf = (pid) => box.run(`tail --pid=${pid} --sleep-interval=0.05 --follow /dev/null`);

async function isRunning(text) {
  const pattern = `[${text[0]}]${text.slice(1)}`;
  return (await box.run(`pgrep -f '${pattern}'`)).exit_code === 0;
}

// --- stories

const LINE = "grüße, 日本 🙂\n";
const BIG = Math.ceil((3 * 2 ** 20) / Buffer.byteLength(LINE));
const LINES = 20_000;

const stories = {
  async pieces() {
    const command = 'while read -r line; do echo "$line"; read -r line; echo "$line" >&2; done';
    const handle = await box.run(command, { wait: false, closeInput: false });
    const chunks = iterate(handle);
    const told = [];
    for (const word of ["grüße", "err", "日本", "🙂🙂", "out", "ß"]) {
      handle.sendInput(`${word}\n`);
      told.push((await chunks.next()).value);
    }
    handle.closeInput();
    const result = await handle.result;
    const { commandId, lastStdoutOffset: stdout, lastStderrOffset: stderr } = handle;
    return { commandId, told, result, offsets: [stdout, stderr], after: await all(handle) };
  },

  async callbacks() {
    const heard = { stdout: "", stderr: "" };
    const result = await box.run("for n in 1 2 3; do echo out $n; echo err $n >&2; done", {
      onStdout: (text) => (heard.stdout += text),
      onStderr: (text) => (heard.stderr += text),
    });
    return { heard, result };
  },

  async exits() {
    const commands = ["echo out; echo err >&2; exit 3", "kill -TERM $$", "no-such-command"];
    return { results: await Promise.all(commands.map((command) => box.run(command))) };
  },

  async kill() {
    const command = "echo begun; sleep 4711 & sleep 4712; echo not reached";
    const handle = await box.run(command, { wait: false, timeout: 0 });
    await iterate(handle).next();
    const before = await isRunning("sleep 4711");
    handle.kill();
    const result = await handle.result;
    const after = [await isRunning("sleep 4711"), await isRunning("sleep 4712")];
    const again = await (await box.reconnect(handle.commandId)).result;
    return { before, result, after, again };
  },

  async input() {
    const handle = await box.run("cat; echo over", { wait: false, closeInput: false });
    const chunks = iterate(handle);
    const same = [];
    for (const text of ["typed\n", LINE, "x".repeat(300_000) + "\n"]) {
      handle.sendInput(text);
      same.push((await readUntil(chunks, text)) === text);
    }
    handle.closeInput();
    handle.closeInput();
    const late = await outcome(() => handle.sendInput("more"));
    return { same, late, exit: (await handle.result).exit_code };
  },

  async noInput() {
    const seen = {};
    for (const [name, closeInput] of [["unsaid", undefined], ["closed", true]]) {
      const handle = await box.run("cat; echo over", { wait: false, closeInput });
      seen[name] = {
        late: await outcome(() => handle.sendInput("more")),
        result: await handle.result,
      };
    }
    return seen;
  },

  async secondHandle() {
    const first = await box.run("cat; echo over", { wait: false, closeInput: false });
    const second = await box.reconnect(first.commandId);
    second.closeInput();
    return { results: [await second.result, await first.result] };
  },

  async terminal() {
    const look = await box.run("stty size; test -t 0 && tty; echo err >&2", { pty: true });
    const handle = await box.run("cat; echo over", { wait: false, pty: true });
    const chunks = iterate(handle);
    handle.sendInput("grüße\n");
    await readUntil(chunks, "grüße\r\ngrüße\r\n");
    handle.closeInput();
    handle.sendInput("again\n");
    await readUntil(chunks, "again\r\nagain\r\n");
    handle.sendInput("\x04");
    const interrupted = await box.run("echo ready; sleep 4713; echo not reached", {
      wait: false,
      pty: true,
      timeout: 0,
    });
    await readUntil(iterate(interrupted), "ready\r\n");
    interrupted.sendInput("\x03");
    return { look, typed: await handle.result, interrupted: await interrupted.result };
  },

  async megabytes() {
    const text = JSON.stringify(LINE);
    const command = `python3 -c 'import sys; sys.stdout.write(${text} * ${BIG})'; echo over >&2`;
    const handle = await box.run(command, { wait: false });
    const chunks = (await all(handle)).filter((chunk) => chunk.stream === "stdout");
    let position = 0;
    let gaps = 0;
    for (const chunk of chunks) {
      gaps += chunk.offset === position ? 0 : 1;
      position = chunk.offset + Buffer.byteLength(chunk.data);
    }
    const { stdout, stderr, exit_code } = await handle.result;
    return { gaps, position, same: stdout === LINE.repeat(BIG), stderr, exit_code };
  },

  async slowReader() {
    const text = JSON.stringify(LINE);
    const command = `exec python3 -c 'import sys; sys.stdout.write(${text} * ${BIG})'`;
    const handle = await box.run(command, { wait: false });
    await iterate(handle).next();
    await endOf(handle.pid);
    return { same: (await handle.result).stdout === LINE.repeat(BIG) };
  },

  async timeout() {
    const handle = await box.run("echo begun; sleep 4714", { wait: false, timeout: 1 });
    const first = (await iterate(handle).next()).value.data;
    const late = await outcome(() => handle.result);
    const again = await outcome(async () => (await box.reconnect(handle.commandId)).result);
    const waited = await outcome(() => box.run("sleep 4714", { timeout: 1 }));
    return { first, late, again, waited, after: await isRunning("sleep 4714") };
  },

  async idle() {
    const attached = await box.run("sleep 1.5; echo alive", { idleTimeout: 1 });
    const begun = await elsewhere("echo begun; sleep 4715", { timeout: 0, idleTimeout: 1 });
    await endOf(begun.pid);
    return { attached, result: await (await box.reconnect(begun.commandId)).result };
  },

  async killOnDisconnect() {
    const options = { timeout: 0, killOnDisconnect: true, idleTimeout: -1 };
    const begun = await elsewhere("echo begun; sleep 4716", options);
    await endOf(begun.pid);
    return { result: await (await box.reconnect(begun.commandId)).result };
  },

  async expiry() {
    const seen = {};
    for (const ttlSeconds of [0, 1]) {
      const handle = await box.run("echo out", { wait: false, ttlSeconds });
      await handle.result;
      const again = async () => (await box.reconnect(handle.commandId)).result;
      const before = ttlSeconds ? await again() : null;
      if (ttlSeconds) await box.run(`sleep ${ttlSeconds}`);
      seen[ttlSeconds] = { before, late: await outcome(again) };
    }
    return seen;
  },

  async outlived() {
    const command = `seq ${LINES} >&2; seq -f 'größe %g' ${LINES}; read -r line; echo "$line"`;
    const begun = await elsewhere(command, { timeout: 0, closeInput: false });
    const seen = [];
    for (const [stdoutOffset, stderrOffset] of [[0, 0], [begun.offset, 2], [3, 2]]) {
      const handle = await box.reconnect(begun.commandId, { stdoutOffset, stderrOffset });
      const chunks = iterate(handle);
      let first;
      while (first === undefined || first.stream !== "stdout") first = (await chunks.next()).value;
      if (!stdoutOffset) handle.sendInput("über\n");
      const { stdout, stderr, exit_code } = await handle.result;
      seen.push({ stdoutOffset, stderrOffset, first: first.offset, stdout, stderr, exit_code });
    }
    return { seen };
  },

  async sameId() {
    const commandId = "chosen by the caller";
    const first = await box.run("cat", { wait: false, closeInput: false, commandId });
    first.sendInput("one\n");
    await iterate(first).next();
    const second = await box.run("echo never run", { wait: false, closeInput: false, commandId });
    const pids = [first.pid, second.pid];
    second.closeInput();
    return { pids, results: [await first.result, await second.result] };
  },

  async places() {
    const look = "echo $PWD $A; id -u";
    const runConfig = { user: "root", work_dir: "/tmp", env_vars: { A: "config" } };
    return {
      legacy: await box.run(look, { env: { A: "ü b" }, cwd: "/usr" }),
      config: await box.run(look, { runConfig }),
      neither: await box.run(look),
      shell: await box.run("echo $0", { shell: "/bin/sh" }),
      both: await outcome(() => box.run(look, { runConfig, env: { A: "b" } })),
    };
  },

  async refusals() {
    return {
      shell: await outcome(() => box.run("true", { shell: "/no/shell" })),
      cwd: await outcome(() => box.run("true", { cwd: "/no/directory" })),
      user: await outcome(() => box.run("true", { runConfig: { user: "nobody-at-all" } })),
    };
  },

  async many() {
    const together = 20;
    const run = (number) =>
      box.run(
        `mkdir -p many; touch many/${number};` +
          `until [ $(ls many | wc -l) = ${together} ]; do sleep 0.05; done;` +
          `seq -f '${number}: %g' 1000; exit ${number}`,
      );
    return { results: await Promise.all(Array.from({ length: together }, (_, n) => run(n))) };
  },
};

await Promise.all(
  Object.entries(stories).map(async ([name, story]) => {
    try {
      tell(name, await story());
    } catch (error) {
      tell(name, { failed: error.stack });
    }
  }),
);
await box.delete();
