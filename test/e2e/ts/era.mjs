// Connects with the client that speaks both eras, in its automatic mode, and
// expects a session. Arguments: the gateway's URL at each worker.

import assert from "node:assert/strict";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { inTurn } from "./workers.mjs";

const urls = process.argv.slice(2);
const { fetchInTurn, asked } = inTurn(urls);
const client = new Client({ name: "leasehold-e2e", version: "1.0.0" }, { versionNegotiation: { mode: "auto" } });
const transport = new StreamableHTTPClientTransport(new URL(urls[0]), { fetch: fetchInTurn });
await client.connect(transport);
assert.equal(transport.protocolVersion, "2025-11-25");
assert.match(transport.sessionId, /^lh1\./);
for (let want = 1; want <= 6; want++) {
  const result = await client.callTool({ name: "counter_increment", arguments: {} });
  assert.equal(result.content[0].text, String(want));
}
await transport.terminateSession();
await client.close();
console.log(`session of ${transport.protocolVersion}; requests per worker: ${asked}`);
