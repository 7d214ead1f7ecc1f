// HTTPS by Node, which has its own OpenSSL: tls_node.js serve CERTIFICATE KEY | get ADDRESS PATH COUNT.
const fs = require("fs");
const https = require("https");

function serve(certificate, key) {
  const options = { cert: fs.readFileSync(certificate), key: fs.readFileSync(key) };
  const server = https.createServer(options, (request, response) => {
    const big = request.url.match(/^\/big\/(\d+)/);
    response.end(big ? "x".repeat(Number(big[1])) : "ok\n");
  });
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
}

function get(address, path, count) {
  const [host, port] = address.split(":");
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1, rejectUnauthorized: false });
  const next = (number) => {
    if (number == count) return agent.destroy();
    https.get({ host, port, path: path + number, agent }, (response) => {
      response.resume();
      response.on("end", () => {
        console.log(response.statusCode);
        next(number + 1);
      });
    });
  };
  next(0);
}

({ serve, get })[process.argv[2]](...process.argv.slice(3));
