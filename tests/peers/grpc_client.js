// Calls every method of `peers.Echo` with @grpc/grpc-js and prints what it saw as JSON, in the form of grpc_client.py.
// Usage: grpc_client.js HOST:PORT.
"use strict";
const grpc = require("@grpc/grpc-js");
const { service } = require("./grpc_server.js");

// Milliseconds for a call that should come to an end.
const TIMEOUT = 20_000;
const MIB = 1 << 20;

const Client = grpc.makeGenericClientConstructor(service, "Echo");
const client = new Client(process.argv[2], grpc.credentials.createInsecure(), {
  "grpc.max_receive_message_length": -1,
  "grpc.enable_http_proxy": 0,
});
const until = (ms) => ({ deadline: Date.now() + ms });
const nameOf = (code) => Object.keys(grpc.status).find((name) => grpc.status[name] === code);

function unary(name, message) {
  return new Promise((done) => {
    const metadata = new grpc.Metadata();
    metadata.set("x-kind", "node");
    const seen = {};
    const call = client[name](message, metadata, until(TIMEOUT), (error, answer) => Object.assign(seen, { error, answer }));
    call.on("metadata", (initial) => (seen.kind = initial.get("x-kind-seen")[0]));
    call.on("status", (status) => setImmediate(() => done({ ...seen, status })));
  });
}

async function fail() {
  const { status } = await unary("Fail", Buffer.alloc(0));
  const [reason, binary] = ["reason", "reason-bin"].map((name) => status.metadata.get(name)[0]);
  return [nameOf(status.code), status.details, reason, Buffer.from(binary ?? "").toString("hex")];
}

// All messages of a stream, and how it ended.
function all(call, each = () => {}) {
  return new Promise((done) => {
    const answers = [];
    call.on("data", (answer) => {
      answers.push(answer);
      each(answers);
    });
    call.on("error", () => {});
    call.on("status", (status) => done({ answers, code: nameOf(status.code) }));
  });
}

async function many() {
  const { answers } = await all(client.Many(Buffer.from("1000"), until(TIMEOUT)));
  return answers.length === 1000 && answers.every((answer, number) => String(answer) === String(number));
}

function sum() {
  return new Promise((done, broken) => {
    const call = client.Sum(until(TIMEOUT), (error, answer) => (error ? broken(error) : done(String(answer))));
    for (let number = 0; number < 1000; number++) call.write(Buffer.alloc(1000, "y"));
    call.end(Buffer.alloc(MIB, "z"));
  });
}

// Each question only after the answer to the one before.
async function chat() {
  const words = [Buffer.from("one"), Buffer.alloc(0), Buffer.alloc(MIB, "x"), Buffer.from("four")];
  const call = client.Chat(until(TIMEOUT));
  const next = (answers) => (answers.length < words.length ? call.write(words[answers.length]) : call.end());
  const ended = all(call, next);
  next([]);
  const { answers, code } = await ended;
  return [answers.slice(0, words.length).map((answer) => answer.length), answers.length - words.length, code];
}

async function leftAlone(timeout, cancel) {
  const call = client.Hang(Buffer.from("still here"), until(timeout));
  const { answers, code } = await all(call, () => cancel && call.cancel());
  return [String(answers[0]), code];
}

const left = async () => Number((await unary("Left", Buffer.alloc(0))).answer);

// Streams that the server knows it was left with: both above, a moment later at most.
async function leftAtServer(before) {
  const end = Date.now() + 10_000;
  for (;;) {
    const count = (await left()) - before;
    if (count >= 2 || Date.now() > end) return count;
    await new Promise((later) => setTimeout(later, 50));
  }
}

async function atOnce() {
  const numbers = Array.from({ length: 200 }, (_, number) => String(number));
  const seen = await Promise.all(numbers.map((number) => unary("Unary", Buffer.from(number))));
  return seen.every(({ answer }, number) => String(answer) === numbers[number]);
}

async function main() {
  const large = Buffer.alloc(4 * MIB, Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)));
  const empty = await unary("Unary", Buffer.alloc(0));
  const before = await left();
  const seen = {
    empty: [empty.answer?.length, nameOf(empty.status.code), empty.kind],
    large: large.equals((await unary("Unary", large)).answer ?? Buffer.alloc(0)),
    fail: await fail(),
    many: await many(),
    sum: await sum(),
    chat: await chat(),
    cancel: await leftAlone(TIMEOUT, true),
    deadline: await leftAlone(500, false),
    left: await leftAtServer(before),
    at_once: await atOnce(),
  };
  process.stdout.write(JSON.stringify(seen));
  client.close();
}

main();
