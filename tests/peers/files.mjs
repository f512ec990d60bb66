// The story that test_vendor_files.py lets the vendor's JavaScript client tell.
//
// It asserts nothing: it prints what it saw, one JSON object a line, each with its "step".

import { SandboxClient } from "langsmith/sandbox";

const client = new SandboxClient();
const box = await client.createSandbox({ name: "js-files" });

function tell(step, seen) {
  console.log(JSON.stringify({ step, ...seen }));
}

function chunk({ content, ...rest }) {
  return { ...rest, content: Buffer.from(content).toString() };
}

async function outcome(call) {
  try {
    await call();
    return null;
  } catch (error) {
    const { operation, resourceType } = error;
    return { error: error.name === "Error" ? error.constructor.name : error.name, operation, resourceType };
  }
}

const path = "/home/user/deep/with space-ü.txt";
await box.write(path, "0123456789");
const stat = await box.stat(path);
const parts = {
  middle: chunk(await box.readRange(path, { start: 3, end: 5 })),
  rest: chunk(await box.readRange(path, { start: 8 })),
  last: chunk(await box.readRange(path, { suffixBytes: 2 })),
  clamped: chunk(await box.readRange(path, { start: 8, end: 99 })),
  same: chunk(await box.readRange(path, { start: 0, ifNoneMatch: stat.etag })),
  tied: chunk(await box.readRange(path, { start: 5, ifRange: stat.etag })),
};
await box.write(path, "abcdefghij");
parts.changed = chunk(await box.readRange(path, { start: 5, ifRange: stat.etag }));
tell("parts", { stat, parts });

await box.write("/home/user/deep/a.py", "one\nneedle two\n");
const names = (found) => found.matches.map((each) => [each.path, each.is_dir, each.size_bytes]);
const lines = await box.grep("needle", "/home/user", { glob: "*.py" });
tell("found", {
  ls: names(await box.ls("/home/user")),
  glob: names(await box.glob("**/*.py", "/home/user")),
  limited: await box.glob("**", "/home/user", { limit: 1 }),
  lines,
});

tell("errors", {
  stat: await outcome(() => box.stat("/nowhere")),
  range: await outcome(() => box.readRange("/nowhere", { start: 0 })),
  behind: await outcome(() => box.readRange(path, { start: 10 })),
  glob: await outcome(() => box.glob("*", "/nowhere")),
  grep: await outcome(() => box.grep("x", "/nowhere")),
  pattern: await outcome(() => box.glob("[", "/home/user")),
});
await client.deleteSandbox(box.name);
