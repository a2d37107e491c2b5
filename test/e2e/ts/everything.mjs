// Drives server-everything with the official client, each request through the
// next worker in turn. Arguments: the gateway's URL at each worker.

import assert from "node:assert/strict";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { inTurn } from "./workers.mjs";

const urls = process.argv.slice(2);
const { fetchInTurn, asked } = inTurn(urls);
const transport = new StreamableHTTPClientTransport(new URL(urls[0]), { fetch: fetchInTurn });
const client = new Client({ name: "leasehold-e2e", version: "1.0.0" }, { capabilities: {} });
const failures = [];
client.onerror = (error) => failures.push(error);
await client.connect(transport);
assert.equal(transport.protocolVersion, "2025-11-25");
assert.match(transport.sessionId, /^lh1\./);

const { tools } = await client.listTools();
const names = tools.map((tool) => tool.name);
for (const name of ["echo", "get-sum", "trigger-long-running-operation"]) {
  assert.ok(names.includes(name), `tool ${name} is not among ${names}`);
}
console.log(`tools: ${names.length}`);

for (let i = 0; i < 2 * urls.length; i++) {
  const sum = await client.callTool({ name: "get-sum", arguments: { a: i, b: 40 } });
  assert.match(sum.content[0].text, new RegExp(`\\b${i + 40}\\b`));
}
const echo = await client.callTool({ name: "echo", arguments: { message: "grüße, 世界" } });
assert.match(echo.content[0].text, /grüße, 世界/);

const progress = [];
const long = await client.callTool(
  { name: "trigger-long-running-operation", arguments: { duration: 0.5, steps: 5 } },
  undefined,
  { onprogress: (p) => progress.push([p.progress, p.total]) },
);
assert.match(long.content[0].text, /completed/);
assert.deepEqual(progress, [[1, 5], [2, 5], [3, 5], [4, 5], [5, 5]]);
console.log(`progress: ${JSON.stringify(progress)}`);

const { resources } = await client.listResources();
assert.ok(resources.length > 0, "no resources");
const { resourceTemplates } = await client.listResourceTemplates();
assert.ok(resourceTemplates.length > 0, "no resource templates");
const read = await client.readResource({ uri: resources[0].uri });
assert.ok(read.contents.length > 0, "an empty resource");
const templated = await client.readResource({ uri: "demo://resource/dynamic/text/1" });
assert.match(templated.contents[0].text, /1/);
console.log(`resources: ${resources.length}, templates: ${resourceTemplates.length}`);

const { prompts } = await client.listPrompts();
const promptNames = prompts.map((prompt) => prompt.name);
assert.ok(promptNames.includes("simple-prompt"), `prompts are ${promptNames}`);
const prompt = await client.getPrompt({ name: "simple-prompt" });
assert.ok(prompt.messages.length > 0, "an empty prompt");
console.log(`prompts: ${promptNames}`);

const sessionId = transport.sessionId;
await transport.terminateSession();
await client.close();
const late = await fetch(urls[0], {
  method: "POST",
  headers: {
    "content-type": "application/json",
    accept: "application/json, text/event-stream",
    "mcp-session-id": sessionId,
    "mcp-protocol-version": "2025-11-25",
  },
  body: JSON.stringify({ jsonrpc: "2.0", id: "late", method: "ping" }),
});
assert.equal(late.status, 404);
const body = await late.json();
assert.equal(body.error.code, -32001);
assert.equal(body.id, "late");

assert.deepEqual(failures, []);
assert.ok(asked.every((n) => n >= 3), `requests per worker: ${asked}`);
console.log(`requests per worker: ${asked}; all done`);
