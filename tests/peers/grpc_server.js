// The service `peers.Echo` of grpc_server.py, on @grpc/grpc-js. Usage: grpc_server.js PORT.
"use strict";
const grpc = require("@grpc/grpc-js");

let left = 0;

function unary(call, answer) {
  const seen = new grpc.Metadata();
  seen.set("x-kind-seen", call.metadata.get("x-kind").join(","));
  call.sendMetadata(seen);
  answer(null, call.request);
}

function fail(_call, answer) {
  const trailers = new grpc.Metadata();
  trailers.set("reason", "because");
  trailers.set("reason-bin", Buffer.from([0x00, 0xff, 0x80]));
  answer({ code: grpc.status.NOT_FOUND, details: "nobody – 50%", metadata: trailers });
}

function many(call) {
  for (let number = 0; number < Number(call.request); number++) call.write(Buffer.from(String(number)));
  call.end();
}

function sum(call, answer) {
  let count = 0;
  let bytes = 0;
  call.on("data", (part) => {
    count += 1;
    bytes += part.length;
  });
  call.on("end", () => answer(null, Buffer.from(`${count} ${bytes}`)));
}

function chat(call) {
  call.on("data", (word) => call.write(word));
  call.on("end", () => call.end());
}

function hang(call) {
  call.on("cancelled", () => (left += 1));
  call.write(call.request);
}

const kinds = { Unary: [0, 0], Fail: [0, 0], Many: [0, 1], Sum: [1, 0], Chat: [1, 1], Hang: [0, 1], Left: [0, 0] };
const bytes = (message) => message;
const service = {};
for (const [name, [requestStream, responseStream]] of Object.entries(kinds)) {
  const coding = { requestSerialize: bytes, requestDeserialize: bytes, responseSerialize: bytes, responseDeserialize: bytes };
  service[name] = { path: `/peers.Echo/${name}`, requestStream: !!requestStream, responseStream: !!responseStream, ...coding };
}
module.exports = { service };

if (require.main === module) {
  const server = new grpc.Server({ "grpc.max_receive_message_length": -1 });
  const leftSoFar = (_call, answer) => answer(null, Buffer.from(String(left)));
  server.addService(service, { Unary: unary, Fail: fail, Many: many, Sum: sum, Chat: chat, Hang: hang, Left: leftSoFar });
  server.bindAsync(`[::]:${process.argv[2]}`, grpc.ServerCredentials.createInsecure(), (error) => {
    if (error) throw error;
  });
}
