// The clients of the TypeScript SDK, told what to do on standard input: a line of
// JSON for each thing to do, and one for each that is done or was heard of. The
// argument says which of the two: sdk or client. Packages are those of the
// working directory.

import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

const load = createRequire(join(process.cwd(), "package.json"));

// sdk is the client of the package that is client and server in one.
function sdk() {
  const { Client } = load("@modelcontextprotocol/sdk/client/index.js");
  const types = load("@modelcontextprotocol/sdk/types.js");
  return {
    make: (capabilities) => new Client({ name: "pairs", version: "1" }, { capabilities }),
    sampling: types.CreateMessageRequestSchema,
    elicitation: types.ElicitRequestSchema,
    roots: types.ListRootsRequestSchema,
    updated: types.ResourceUpdatedNotificationSchema,
    changed: types.ToolListChangedNotificationSchema,
    logged: types.LoggingMessageNotificationSchema,
    call: (client, params, options) => client.callTool(params, undefined, options),
    http: load("@modelcontextprotocol/sdk/client/streamableHttp.js").StreamableHTTPClientTransport,
    sse: load("@modelcontextprotocol/sdk/client/sse.js").SSEClientTransport,
    stdio: load("@modelcontextprotocol/sdk/client/stdio.js").StdioClientTransport,
  };
}

// split is the client of the packages that came after it, which speaks both eras.
function split() {
  const all = load("@modelcontextprotocol/client");
  return {
    make: (capabilities, mode) => new all.Client({ name: "pairs", version: "1" }, { capabilities, versionNegotiation: { mode } }),
    sampling: "sampling/createMessage",
    elicitation: "elicitation/create",
    roots: "roots/list",
    updated: "notifications/resources/updated",
    changed: "notifications/tools/list_changed",
    logged: "notifications/message",
    call: (client, params, options) => client.callTool(params, options),
    http: all.StreamableHTTPClientTransport,
    sse: all.SSEClientTransport,
    stdio: load("@modelcontextprotocol/client/stdio").StdioClientTransport,
  };
}

const library = process.argv[2] === "sdk" ? sdk() : split();
const say = (message) => process.stdout.write(JSON.stringify(message) + "\n");
const sessions = new Map(); // by key: { client, transport, roots }
const calls = new Map(); // by id of what is to be done: its AbortController

// transportTo makes the transport to a server.
function transportTo({ kind, url, command, args }) {
  switch (kind) {
    case "http": return new library.http(new URL(url));
    case "sse": return new library.sse(new URL(url));
    default: return new library.stdio({ command, args, stderr: "ignore" });
  }
}

const deeds = {
  async connect({ session, server, mode }) {
    const capabilities = { sampling: {}, elicitation: {} };
    if (server.roots) capabilities.roots = { listChanged: true };
    const client = library.make(capabilities, mode);
    client.onerror = (error) => say({ session, trouble: String(error) });
    client.setRequestHandler(library.sampling, async () => ({
      model: "m", role: "assistant", content: { type: "text", text: "sampled by pairs" },
    }));
    client.setRequestHandler(library.elicitation, async () => ({ action: "accept", content: { name: "Ada" } }));
    client.setNotificationHandler(library.updated, (n) => say({ session, updated: n.params.uri }));
    client.setNotificationHandler(library.changed, () => say({ session, told: "tools changed" }));
    client.setNotificationHandler(library.logged, (n) => say({ session, told: "log " + n.params.data }));
    const transport = transportTo(server);
    const opened = { client, transport, roots: [] };
    if (server.roots) client.setRequestHandler(library.roots, async () => ({ roots: opened.roots }));
    sessions.set(session, opened);
    await client.connect(transport);
    return { version: transport.protocolVersion ?? "", server: client.getServerVersion().name, id: transport.sessionId ?? "" };
  },
  async list({ session, kind }) {
    const { client } = sessions.get(session);
    switch (kind) {
      case "tools": return (await client.listTools()).tools.map((t) => t.name);
      case "prompts": return (await client.listPrompts()).prompts.map((p) => p.name);
      default: return (await client.listResources()).resources.map((r) => r.uri);
    }
  },
  async call({ id, session, name, args, progress }) {
    const stop = new AbortController();
    calls.set(id, stop);
    const options = { signal: stop.signal };
    if (progress) options.onprogress = () => say({ id, progress: true });
    try {
      const result = await library.call(sessions.get(session).client, { name, arguments: args }, options);
      return result.content.map((c) => c.text ?? "").join("\n");
    } finally {
      calls.delete(id);
    }
  },
  async subscribe({ session, uri }) {
    await sessions.get(session).client.subscribeResource({ uri });
  },
  async prompt({ session, name }) {
    const { messages } = await sessions.get(session).client.getPrompt({ name });
    return messages.map((m) => m.content.text).join("\n");
  },
  async read({ session, uri }) {
    const { contents } = await sessions.get(session).client.readResource({ uri });
    return contents.map((c) => c.uri);
  },
  async complete({ session, prompt, argument, value }) {
    const ref = { type: "ref/prompt", name: prompt };
    return (await sessions.get(session).client.complete({ ref, argument: { name: argument, value } })).completion.values;
  },
  async level({ session, level }) {
    await sessions.get(session).client.setLoggingLevel(level);
  },
  async roots({ session, uri }) {
    const opened = sessions.get(session);
    opened.roots = [{ uri }];
    await opened.client.sendRootsListChanged();
  },
  async close({ session }) {
    const { client, transport } = sessions.get(session);
    sessions.delete(session);
    await transport.terminateSession?.();
    await client.close();
  },
};

createInterface({ input: process.stdin }).on("line", async (line) => {
  const order = JSON.parse(line);
  if (order.deed === "cancel") {
    calls.get(order.id)?.abort("cancelled by pairs");
    return;
  }
  try {
    say({ id: order.id, result: (await deeds[order.deed](order)) ?? null });
  } catch (error) {
    say({ id: order.id, error: String(error?.message ?? error) });
  }
}).on("close", () => process.exit(0));
