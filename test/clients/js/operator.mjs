// Drives the operators' API with the client that @grpc/grpc-js makes from the
// proto files: node operator.mjs CONTROL PROTO_DIR SESSION
import assert from "node:assert/strict";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [control, protoDir, sessionName] = process.argv.slice(2);
const definition = loader.loadSync(
  ["gateway", "session", "worker"].map((file) => `leasehold/v1/${file}.proto`),
  { includeDirs: [protoDir], keepCase: true, longs: String, enums: String, defaults: true },
);
const { leasehold } = grpc.loadPackageDefinition(definition);
const credentials = grpc.credentials.createInsecure();
const gateways = new leasehold.v1.GatewayService(control, credentials);
const sessions = new leasehold.v1.SessionService(control, credentials);
const workers = new leasehold.v1.WorkerService(control, credentials);

const deadline = () => ({ deadline: Date.now() + 20_000 });
const call = (client, method, request) =>
  new Promise((resolve, reject) =>
    client[method](request, deadline(), (error, response) => (error ? reject(error) : resolve(response))),
  );

// refused makes a call that must fail with a code, and returns the error.
async function refused(code, client, method, request) {
  const error = await call(client, method, request).then(
    () => assert.fail(`${method} succeeded, want ${grpc.status[code]}`),
    (error) => error,
  );
  assert.equal(grpc.status[error.code], grpc.status[code], error.message);
  return error;
}

// Watch reads a server's stream one message at a time.
class Watch {
  constructor(client, method, request) {
    this.stream = client[method](request, deadline());
    this.messages = [];
    this.waiting = [];
    this.stream.on("data", (message) => (this.waiting.shift()?.resolve ?? ((m) => this.messages.push(m)))(message));
    this.stream.on("error", (error) => this.waiting.splice(0).forEach(({ reject }) => reject(error)));
  }
  next() {
    if (this.messages.length > 0) return Promise.resolve(this.messages.shift());
    return new Promise((resolve, reject) => this.waiting.push({ resolve, reject }));
  }
  async until(wanted) {
    for (;;) {
      const message = await this.next();
      if (wanted(message)) return message;
    }
  }
  cancel() {
    this.stream.cancel();
  }
}

const upstreams = [{ name: "u", url: "http://127.0.0.1:9/mcp" }];

// Create.
for (const id of ["js-c", "js-a", "js-b"]) {
  const { gateway } = await call(gateways, "CreateGateway", { gateway_id: id, gateway: { upstreams, labels: { team: "js", id } } });
  assert.equal(gateway.name, `gateways/${id}`);
  assert.notEqual(gateway.etag, "");
}
await refused(grpc.status.ALREADY_EXISTS, gateways, "CreateGateway", { gateway_id: "js-a", gateway: { upstreams } });
const invalid = await refused(grpc.status.INVALID_ARGUMENT, gateways, "CreateGateway", { gateway_id: "js-d", gateway: { upstreams: [{ name: "", url: "x" }] } });
const details = invalid.metadata.get("grpc-status-details-bin")[0].toString("latin1");
for (const part of ["google.rpc.BadRequest", "upstreams[0].name", "upstreams[0].url", "google.rpc.ErrorInfo"]) {
  assert.ok(details.includes(part), `the details of a bad gateway lack ${part}`);
}

// List, with a filter, in pages, in order.
const listed = [];
let pages = 0;
for (let token = ""; ; pages++) {
  const page = await call(gateways, "ListGateways", { page_size: 2, page_token: token, filter: "labels.team = js" });
  listed.push(...page.gateways.map((gateway) => gateway.name));
  token = page.next_page_token;
  if (token === "") break;
}
assert.deepEqual(listed, ["gateways/js-a", "gateways/js-b", "gateways/js-c"]);
assert.equal(pages, 1, "a second page was needed, and no third");
const one = await call(gateways, "ListGateways", { filter: "labels.team = js AND labels.id = js-b" });
assert.deepEqual(one.gateways.map((gateway) => gateway.name), ["gateways/js-b"]);
await refused(grpc.status.INVALID_ARGUMENT, gateways, "ListGateways", { filter: "nonsense" });
await refused(grpc.status.INVALID_ARGUMENT, gateways, "ListGateways", { page_token: "nonsense" });

// Watch: what there is, a bookmark, then changes.
const watch = new Watch(gateways, "WatchGateways", { filter: "labels.team = js" });
const first = [await watch.next(), await watch.next(), await watch.next()];
assert.deepEqual(first.map((m) => [m.type, m.gateway.name]).sort(), listed.map((name) => ["CHANGE_TYPE_PUT", name]));
const bookmark = await watch.next();
assert.equal(bookmark.type, "CHANGE_TYPE_BOOKMARK");

// Update, with mask and etag.
const before = (await call(gateways, "GetGateway", { name: "gateways/js-a" })).gateway;
const update = { gateway: { name: before.name, etag: before.etag, description: "by js", labels: {} }, update_mask: { paths: ["description"] } };
const after = (await call(gateways, "UpdateGateway", update)).gateway;
assert.equal(after.description, "by js");
assert.deepEqual(after.labels, before.labels, "the mask leaves labels alone");
assert.notEqual(after.etag, before.etag);
await refused(grpc.status.ABORTED, gateways, "UpdateGateway", update);
const changed = await watch.next();
assert.equal(changed.type, "CHANGE_TYPE_PUT");
assert.equal(changed.gateway.description, "by js");

// Delete, with etag.
await refused(grpc.status.ABORTED, gateways, "DeleteGateway", { name: before.name, etag: before.etag });
await call(gateways, "DeleteGateway", { name: before.name, etag: after.etag });
const removed = await watch.next();
assert.deepEqual([removed.type, removed.gateway.name], ["CHANGE_TYPE_REMOVED", before.name]);
await refused(grpc.status.NOT_FOUND, gateways, "GetGateway", { name: before.name });
watch.cancel();

// Resume: what came after the bookmark comes, and nothing else.
const resumed = new Watch(gateways, "WatchGateways", { revision: bookmark.revision, filter: "labels.team = js" });
assert.deepEqual([(await resumed.next()).gateway.description, (await resumed.next()).type], ["by js", "CHANGE_TYPE_REMOVED"]);
resumed.cancel();

// Workers and sessions.
const alive = (await call(workers, "ListWorkers", {})).workers;
assert.equal(alive.length, 1);
assert.equal((await call(workers, "GetWorker", { name: alive[0].name })).worker.name, alive[0].name);
const watchedWorkers = new Watch(workers, "WatchWorkers", {});
assert.equal((await watchedWorkers.next()).worker.name, alive[0].name);
watchedWorkers.cancel();

const mine = await call(sessions, "ListSessions", { parent: "gateways/-", filter: `owner = ${alive[0].name}`, show_activity: true });
assert.deepEqual(mine.sessions.map((session) => session.name), [sessionName]);
assert.equal(mine.sessions[0].activity.calls_in_flight, 0);
const shown = (await call(sessions, "GetSession", { name: sessionName })).session;
assert.equal(shown.events[0].type, "SESSION_EVENT_TYPE_OPENED");
const watchedSessions = new Watch(sessions, "WatchSessions", {});
await watchedSessions.until((m) => m.type === "CHANGE_TYPE_BOOKMARK");
assert.equal((await call(sessions, "TerminateSession", { name: sessionName })).session.end.reason, "END_REASON_TERMINATED");
const over = await watchedSessions.until((m) => m.type === "CHANGE_TYPE_REMOVED");
assert.equal(over.session.name, sessionName);
assert.equal(over.session.end.reason, "END_REASON_TERMINATED");
watchedSessions.cancel();

console.log("all done");
for (const client of [gateways, sessions, workers]) client.close();
