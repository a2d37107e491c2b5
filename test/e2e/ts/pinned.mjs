// Drives server-everything, at an upstream whose sessions are pinned, with the
// official client, each request through the next worker in turn. Arguments: the
// gateway's URL at each worker.

import assert from "node:assert/strict";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { CreateMessageRequestSchema, ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";
import { inTurn } from "./workers.mjs";

const urls = process.argv.slice(2);
const { fetchInTurn, asked } = inTurn(urls);
const transport = new StreamableHTTPClientTransport(new URL(urls[0]), { fetch: fetchInTurn });
const client = new Client({ name: "leasehold-e2e", version: "1.0.0" }, { capabilities: { sampling: {}, elicitation: {} } });
const failures = [];
client.onerror = (error) => failures.push(error);
client.setRequestHandler(CreateMessageRequestSchema, async (request) => ({
  model: "m", role: "assistant", content: { type: "text", text: `sampled ${request.params.maxTokens}` },
}));
client.setRequestHandler(ElicitRequestSchema, async () => ({ action: "decline" }));
await client.connect(transport);
console.log(`version: ${transport.protocolVersion}`);

const { tools } = await client.listTools();
const names = tools.map((tool) => tool.name);
for (const name of ["echo", "get-sum", "trigger-long-running-operation"]) {
  assert.ok(names.includes(name), `tool ${name} is not among ${names}`);
}
for (let i = 0; i < 2 * urls.length; i++) {
  const sum = await client.callTool({ name: "get-sum", arguments: { a: i, b: 40 } });
  assert.match(sum.content[0].text, new RegExp(`\\b${i + 40}\\b`));
}
const progress = [];
const long = await client.callTool(
  { name: "trigger-long-running-operation", arguments: { duration: 0.5, steps: 5 } },
  undefined,
  { onprogress: (p) => progress.push([p.progress, p.total]) },
);
assert.match(long.content[0].text, /completed/);
assert.deepEqual(progress, [[1, 5], [2, 5], [3, 5], [4, 5], [5, 5]]);

// The server's own requests. It offers these tools once it knows the client.
const sampled = await client.callTool({ name: "trigger-sampling-request", arguments: { prompt: "p", maxTokens: 7 } });
assert.match(sampled.content[0].text, /sampled 7/);
const elicited = await client.callTool({ name: "trigger-elicitation-request", arguments: {} });
assert.match(elicited.content[0].text, /declined/);

// A call that is cancelled, while others go on.
const stop = new AbortController();
const cancelled = client.callTool({ name: "trigger-long-running-operation", arguments: { duration: 60, steps: 60 } },
  undefined, { signal: stop.signal, onprogress: () => stop.abort("enough") });
await assert.rejects(cancelled, /enough/);
const echo = await client.callTool({ name: "echo", arguments: { message: "grüße, 世界" } });
assert.match(echo.content[0].text, /grüße, 世界/);

// A client ignores what comes for a call that it has cancelled; this one mentions it.
const late = /response for an unknown message ID: .*"tool":"trigger-long-running-operation"/;
assert.deepEqual(failures.filter((error) => !late.test(String(error))), []);
// A program may take seconds to end, so that the client misses its stream meanwhile.
await transport.terminateSession();
await client.close();
assert.ok(asked.every((n) => n > 0), `requests per worker: ${asked}`);
console.log("all done");
