// The story that test_vendor_javascript_blocking.py lets the vendor's client tell that has no `ws`.
//
// It asserts nothing: it prints what it saw, one JSON object a line, each with its "step".

import { SandboxClient } from "langsmith/sandbox";

const client = new SandboxClient();

function tell(step, seen) {
  console.log(JSON.stringify({ step, ...seen }));
}

async function outcome(call) {
  try {
    return { result: await call() };
  } catch (error) {
    const { message, operation, errorType } = error;
    return { error: error.name, message, operation, errorType };
  }
}

const box = await client.createSandbox();
const stories = {
  plain: () => box.run("echo out; cat; echo err >&2; exit 3"),
  placed: () => box.run("echo $PWD $A", { env: { A: "grüße 🙂" }, cwd: "/usr" }),
  configured: () =>
    box.run("echo $PWD $A", { runConfig: { work_dir: "/tmp", env_vars: { A: "b" } } }),
  "no text": () => box.run("printf 'a\\377b'"),
  long: async () => {
    const { stdout, stderr } = await box.run("head -c 17000000 /dev/zero | tr '\\0' x");
    return { length: stdout.length, stderr };
  },
  "too long": () => box.run("echo begun; sleep 1000", { timeout: 1 }),
  "no such shell": () => box.run("true", { shell: "/no/shell" }),
  streamed: () => box.run("true", { wait: false }),
};
for (const [step, story] of Object.entries(stories)) tell(step, await outcome(story));
await box.delete();
