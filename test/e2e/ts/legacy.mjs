// Drives server-everything with the official client of the HTTP+SSE transport.
// Argument: the address of its stream.

import assert from "node:assert/strict";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { CreateMessageRequestSchema } from "@modelcontextprotocol/sdk/types.js";

const transport = new SSEClientTransport(new URL(process.argv[2]));
const client = new Client({ name: "leasehold-e2e", version: "1.0.0" }, { capabilities: { sampling: {} } });
const failures = [];
client.onerror = (error) => failures.push(error);
client.setRequestHandler(CreateMessageRequestSchema, async ({ params }) => ({
  model: "e2e",
  role: "assistant",
  content: { type: "text", text: `sampled: ${params.messages.length}` },
}));
await client.connect(transport);

const { tools } = await client.listTools();
const names = tools.map((tool) => tool.name);
for (let i = 0; i < 6; i++) {
  const sum = await client.callTool({ name: "get-sum", arguments: { a: i, b: 40 } });
  assert.match(sum.content[0].text, new RegExp(`\\b${i + 40}\\b`));
}
const echo = await client.callTool({ name: "echo", arguments: { message: "grüße, 世界" } });
assert.match(echo.content[0].text, /grüße, 世界/);

const together = await Promise.all([...Array(20).keys()].map((i) => client.callTool({ name: "get-sum", arguments: { a: i, b: 100 } })));
together.forEach((sum, i) => assert.match(sum.content[0].text, new RegExp(`\\b${i + 100}\\b`)));

const progress = [];
const long = await client.callTool(
  { name: "trigger-long-running-operation", arguments: { duration: 0.5, steps: 5 } },
  undefined,
  { onprogress: (p) => progress.push([p.progress, p.total]) },
);
assert.match(long.content[0].text, /completed/);
// This client forgets whom to tell of progress when the answer comes in one piece with the last of it.
assert.deepEqual([...progress.slice(0, 4), [5, 5]], [[1, 5], [2, 5], [3, 5], [4, 5], [5, 5]]);

assert.ok(names.includes("trigger-sampling-request"), `tools are ${names}`);
const sampled = await client.callTool({ name: "trigger-sampling-request", arguments: { prompt: "hello", maxTokens: 10 } });
assert.match(JSON.stringify(sampled.content), /sampled: 1/);

await assert.rejects(client.callTool({ name: "none", arguments: {} }).then((r) => { if (r.isError) throw new Error("tool error"); }));
await client.close();
assert.deepEqual(failures.map(String).filter((f) => !f.includes("progress notification for an unknown token")), []);
console.log("all done");
process.exit(0); // the client leaves timers behind
