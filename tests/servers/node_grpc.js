// A gRPC server and client on @grpc/grpc-js, without generated code.
//
// serve: prints the port that it listens on.
// each ADDRESS: one call of each kind, one after the other; the last passes its deadline.
// many ADDRESS CONNECTIONS COUNT: COUNT calls on each of so many connections, twenty at a time; of these some fail, some are streams.
// A line per call: method, name of the status code, messages sent and received.
const grpc = require("@grpc/grpc-js");

const PATH = "/spantap.test.Echo/";
const same = (message) => message;
const kinds = { Unary: [0, 0], Fail: [0, 0], Slow: [0, 0], ServerStream: [0, 1], ClientStream: [1, 0], Bidi: [1, 1], Missing: [0, 0] };

function definition(method) {
  const [requestStream, responseStream] = kinds[method].map(Boolean);
  return {
    path: PATH + method, requestStream, responseStream,
    requestSerialize: same, requestDeserialize: same, responseSerialize: same, responseDeserialize: same,
  };
}

const handlers = {
  Unary: (call, done) => done(null, call.request),
  Fail: (call, done) => done({ code: grpc.status[call.request.toString()], details: "as asked for" }),
  Slow: (call, done) => setTimeout(() => done(null, call.request), 1500),
  ServerStream: (call) => {
    for (let index = 0; index < Number(call.request.toString()); index++) call.write(Buffer.from(`${index}`));
    call.end();
  },
  ClientStream: (call, done) => {
    let count = 0;
    call.on("data", () => count++);
    call.on("end", () => done(null, Buffer.from(`${count}`)));
  },
  Bidi: (call) => {
    call.on("data", (message) => call.write(message));
    call.on("end", () => call.end());
  },
};

function serve() {
  const server = new grpc.Server();
  const service = Object.fromEntries(Object.keys(handlers).map((method) => [method, definition(method)]));
  server.addService(service, handlers);
  server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => console.log(port));
}

function client(address) {
  return new grpc.Client(address, grpc.credentials.createInsecure(), { "grpc.use_local_subchannel_pool": 1 });
}

// Makes a call that sends these messages, and resolves when its status is there.
function call(client, method, messages, options = {}) {
  const [requestStream, responseStream] = kinds[method];
  const metadata = new grpc.Metadata();
  const path = PATH + method;
  return new Promise((resolve) => {
    let received = 0;
    const print = (status) => {
      console.log(method, grpc.status[status.code], messages.length, received);
      resolve();
    };
    const done = (error) => {
      if (!error) received++;
    };
    let stream;
    if (!requestStream && !responseStream) stream = client.makeUnaryRequest(path, same, same, messages[0], metadata, options, done);
    else if (!responseStream) stream = client.makeClientStreamRequest(path, same, same, metadata, options, done);
    else if (!requestStream) stream = client.makeServerStreamRequest(path, same, same, messages[0], metadata, options);
    else stream = client.makeBidiStreamRequest(path, same, same, metadata, options);
    stream.on("status", (status) => setImmediate(print, status));
    stream.on("error", () => {});
    if (responseStream) stream.on("data", () => received++);
    if (!requestStream) return;
    messages.forEach((message) => stream.write(message));
    stream.end();
  });
}

async function each(address) {
  const to = client(address);
  const text = (...words) => words.map((word) => Buffer.from(word));
  await call(to, "Unary", text("x"));
  for (const code of ["NOT_FOUND", "INTERNAL", "UNAVAILABLE", "INVALID_ARGUMENT", "DATA_LOSS"]) await call(to, "Fail", text(code));
  await call(to, "Missing", text("x"));
  await call(to, "ServerStream", text("7"));
  await call(to, "ClientStream", text("a", "b", "c", "d", "e"));
  await call(to, "Bidi", text("a", "b", "c"));
  await call(to, "Slow", text("x"), { deadline: Date.now() + 300 });
  to.close();
}

async function many(address, connections, count) {
  const load = async () => {
    const to = client(address);
    const one = (index) => {
      if (index % 5 == 4) return call(to, "Fail", [Buffer.from("NOT_FOUND")]);
      return index % 7 == 6 ? call(to, "ServerStream", [Buffer.from("4")]) : call(to, "Unary", [Buffer.from("x")]);
    };
    for (let done = 0; done < Number(count); done += 20) await Promise.all(Array.from({ length: 20 }, (_, index) => one(index)));
    to.close();
  };
  await Promise.all(Array.from({ length: Number(connections) }, load));
}

({ serve, each, many })[process.argv[1]](...process.argv.slice(2));
